"""An adapted partner on disk: an ordinary nnU-Net model folder, with how it was chosen."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from nnunetv2_stitch.exchange.card import CARD, NO_PROMISE, cell, facts_of, opening, shown_licence, table
from nnunetv2_stitch.exchange.manifest import ADAPTED
from nnunetv2_stitch.figures.own_over_alpha import own_over_alpha
from nnunetv2_stitch.fileio import write_json, write_text
from nnunetv2_stitch.gating.signature import SIGNATURE_FILE
from nnunetv2_stitch.locks import plans_locked
from nnunetv2_stitch.parties.checkpoint import load_checkpoint
from nnunetv2_stitch.parties.checkpoint_writing import write_checkpoint
from nnunetv2_stitch.parties.model_folder import FINAL
from nnunetv2_stitch.parties.preprocessed import FINGERPRINT
from nnunetv2_stitch.selection.retention import mean_and_error
from nnunetv2_stitch.training.line import adapted_state
from nnunetv2_stitch.training.records import without_records

RECORD, FIGURE = ADAPTED, "adapt.png"


def known(values: np.ndarray) -> tuple[float | None, float | None]:
    """Mean over cases and its standard error; None of no case, and no error of one."""
    mean, error = mean_and_error(values)
    cases = np.isfinite(values).sum()
    return mean if cases else None, error if cases > 1 else None


def write_adapted(folder: str, trained: str, plans: dict, dataset_json: dict, folds: Sequence[int | str],
                  record: Mapping, device: torch.device) -> list[str]:
    """Write the chosen point of every fold's line into `folder`, the ends being in `trained`. What was validated at
    another point is removed.

    Args:
        record: contents of adapt.json; `alpha` is the point.

    Returns:
        The files that say how it was chosen.
    """
    plans_file = os.path.join(folder, "plans.json")
    os.makedirs(folder, exist_ok=True)
    with plans_locked(plans_file):
        before = os.path.join(folder, RECORD)
        # Before any checkpoint: whoever finds some of a killed command sees whose they are, and --c writes all of them.
        write_json(before, {**record, "complete": False})
        write_json(plans_file, without_records(plans))
        write_json(os.path.join(folder, "dataset.json"), dataset_json)
        for fold in folds:
            target = os.path.join(folder, f"fold_{fold}")
            end = load_checkpoint(os.path.join(trained, f"fold_{fold}", FINAL))
            state = adapted_state(trained, fold, record["alpha"], device)
            path = os.path.join(target, FINAL)
            os.makedirs(target, exist_ok=True)
            for there, name in ((target, f"fold_{fold}/progress.png"), (folder, FINGERPRINT)):
                shutil.copy(os.path.join(trained, name), there)  # nnU-Net's export wants them
            if os.path.isfile(signature := os.path.join(trained, f"fold_{fold}", SIGNATURE_FILE)):
                shutil.copy(signature, target)  # it holds for every point of the line
            if os.path.isfile(path) and _same(load_checkpoint(path)["network_weights"], state):
                continue
            shutil.rmtree(os.path.join(target, "validation"), ignore_errors=True)
            checkpoint = {**end, "network_weights": state, "optimizer_state": unused_optimizer(end["network_weights"])}
            write_checkpoint(path, checkpoint)
        write_text(os.path.join(folder, CARD), adapted_card(dataset_json, record))
        own_over_alpha(record, os.path.join(folder, FIGURE))
        write_json(before, record)
    return [os.path.join(folder, n) for n in (RECORD, FIGURE, CARD)]


def unused_optimizer(state: Mapping[str, torch.Tensor]) -> dict:
    """The state of nnU-Net's optimizer that has made no step, without which its trainer does not read a checkpoint, not
    even to validate. `state`: the network's as a trainer saves it, where names of one tensor share its memory."""
    count = len({v.data_ptr() for k, v in state.items() if k.endswith((".weight", ".bias"))})
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(count)]
    return torch.optim.SGD(parameters, lr=1e-2, momentum=0.99, weight_decay=3e-5, nesterov=True).state_dict()


def _same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in one.items())


def adapted_card(dataset_json: Mapping, record: Mapping) -> str:
    """MODEL_CARD.md, from the contents of adapt.json: Markdown."""
    facts = facts_of(
        dataset_json, record["configuration"],
        ("Partner", f"{record['partner']['dataset']}, {record['partner']['model']}"),
        ("Licence of the partner", shown_licence(record["partner"]["licence"])),
        ("Trained on for", f"{record['num_epochs']} epochs at learning rate {record['learning_rate']:g}, seed "
                           f"{record['seed']}"),
        ("Point of the line", f"alpha {record['alpha']:g}: {record['reason']}"))
    rows = [*((f"{a:g}", _number(mean), "chosen" if a == record["alpha"] else "")
              for a, mean in zip(record["alphas"], record["mean"])),
            ("host alone", _number(record["host_alone"]["mean"]), "")]
    lines = opening(f"{cell(record['dataset'])}, {cell(record['plans_name'])}",
                    "A partner's network trained on with the host's images, then moved back along the straight line of "
                    "weights towards what it was (arXiv 2109.01903). An ordinary model of the stock trainer; nothing "
                    "has to be installed for it.", facts)
    lines += ["", "## Dice on the host's validation cases", "", "Preprocessed grid, no mirroring, mean over the cases "
              "of all folds, beside the host alone of those of its folds.", "", *table(("alpha", "Dice", ""), rows), "",
              *(f"Fold {f}: begun with checkpoint {digest}." for f, digest in record["start_sha256"].items()), "",
              *map(cell, record["remarks"]), "", NO_PROMISE,
              "The partner's weights went into this model: what their licence asks for binds it too."]
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "not known" if value is None else f"{value:.3f}"
