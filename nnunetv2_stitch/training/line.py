"""The straight line of weights between a partner and the partner trained on with the host's images, and beyond.

Wortsman et al., Robust fine-tuning of zero-shot models, 2022 (arXiv 2109.01903): between the two lie networks that have
learned nearly all of the new and forgotten little of the old.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.parties.checkpoint import load_checkpoint, network_weights
from nnunetv2_stitch.parties.model_folder import FINAL, ModelFolder, read_model_folder
from nnunetv2_stitch.randomness import seed_everything
from nnunetv2_stitch.selection.bands import BandedDice
from nnunetv2_stitch.selection.dice import dice_of_counts, mean_over_labels
from nnunetv2_stitch.selection.scored_cases import ScoredCases, score_cases
from nnunetv2_stitch.training.adapt_session import RECORD_FILE, START, Adaptation
from nnunetv2_stitch.training.batchnorm import FIXED_BATCHES, batch_norms, measure_statistics
from nnunetv2_stitch.training.centre import Centre, opened
from nnunetv2_stitch.training.site import Site

#: 0 is the partner, 1 the partner trained on; beyond 1 the line goes on.
ALPHAS = (*(i / 10 for i in range(11)), 1.15, 1.3)
HALFWAY = 0.5  # what the paper recommends where nothing tells a better point, and what our study found best
TRAINER = "nnUNetTrainer"

State = Mapping[str, torch.Tensor]


def between(start: State, end: State, alpha: float) -> dict[str, torch.Tensor]:
    """`start + alpha * (end - start)` by name, computed in double precision; at 0 and 1 the ends themselves, to the
    last bit. Whole numbers, such as counts of batches, are the end's. Names of one tensor share the result."""
    if alpha == 0:
        return dict(start)
    if alpha == 1:
        return dict(end)
    state: dict[str, torch.Tensor] = {}
    made: dict[tuple, torch.Tensor] = {}
    for name, value in end.items():
        key = (value.data_ptr(), value.shape) if value.numel() else (name,)
        if key not in made:
            made[key] = torch.lerp(start[name].double(), value.double(), alpha).to(value.dtype) \
                if value.is_floating_point() else value
        state[name] = made[key]
    return state


def training_folder(folder: str) -> str:
    """Where the ends of the line are kept, from either folder of an adapted partner."""
    path = Path(os.path.abspath(folder))
    return str(path.with_name("__".join((Adaptation.trainer, *path.name.split("__")[1:]))))


def read_ends(folder: str, fold: int | str) -> tuple[State, State]:
    """The weights at 0 and at 1.

    Raises:
        StitchError: not an adapted partner, or not trained to its end.
    """
    inside = os.path.join(training_folder(folder), f"fold_{fold}")
    paths = [os.path.join(inside, name) for name in (START, FINAL)]
    missing = next((p for p in paths if not os.path.isfile(p)), None)
    if missing is not None:
        raise StitchError(f"{missing} does not exist: fold {fold} was not adapted by nnUNetv2_adapt_party, or not to "
                          f"its end (--c goes on)")
    start, end = (network_weights(load_checkpoint(p)) for p in paths)
    return start, end


def adapted_state(folder: str, fold: int | str, alpha: float,
                  device: str | torch.device = "cpu") -> dict[str, torch.Tensor]:
    """The network's weights at any `alpha` of an adapted partner's line, by name, on the CPU.

    Args:
        folder: the adapted partner's model folder, `nnUNetTrainer__...` or `nnUNetTrainerAdapted__...`.
        fold: one that was adapted.
        alpha: 0 is the partner in the host's terms, 1 the partner trained on with the host's images.
        device: where statistics of BatchNorm are measured, if the network has any: on the host's training images, which
            must be there.

    Raises:
        StitchError: not an adapted partner, or a fold that was not trained to its end.
    """
    start, end = read_ends(folder, fold)
    if alpha in (0, 1) or not any(name.endswith("running_mean") for name in end):
        return between(start, end, alpha)
    from nnunetv2.paths import nnUNet_preprocessed
    model = read_model_folder(training_folder(folder))
    seed = read_json(os.path.join(model.path, f"fold_{fold}", RECORD_FILE))["seed"]
    site = Site(os.path.join(str(nnUNet_preprocessed), model.dataset_name), model.dataset_name, model.configuration,
                fold, model.plans, model.dataset_json)
    seed_everything(seed)
    with opened(site, torch.device(device)) as centre:
        return _measured(centre, [(start, end, alpha)])[0]


def _measured(centre: Centre, points: Sequence[tuple[State, State, float]]) -> list[dict[str, torch.Tensor]]:
    """The states at points of lines, with statistics of BatchNorm that fit them (`batchnorm`)."""
    states = [between(*point) for point in points]
    if not batch_norms(centre.network):
        return states
    centre.deep_supervision(False)
    inputs = [centre.batch()["data"] for _ in range(FIXED_BATCHES)]
    for state, (_, _, alpha) in zip(states, points):
        if alpha not in (0, 1):
            centre.network.load_state_dict(state)
            measure_statistics(centre.network, inputs, centre.device)
            state.update((k, v.detach().cpu().clone()) for k, v in centre.network.state_dict().items())
    return states


def case_dice(site: Site, points: Sequence[tuple[State, State, float]], seed: int, kept: ScoredCases,
              device: torch.device, title: str, progress: bool = True,
              say: Callable[[str], None] = lambda line: None) -> np.ndarray:
    """Mean Dice over labels of each whole validation case under each point `(start, end, alpha)`: `(points, cases)`,
    cases in order of their names.

    nnU-Net's sliding window, preprocessed grid, no mirroring. NaN where the reference has no label.

    Args:
        seed: of the batches that statistics of BatchNorm are measured on.
        kept: where scores of single cases are kept until the caller has written them.
    """
    seed_everything(seed)
    with opened(site, device) as centre:
        trainer, network, cases = centre.trainer, centre.network, centre.validation_cases()
        # One state after the other is computed where that is cheap: all of them would take as much memory as points.
        states = _measured(centre, points) if batch_norms(network) else None
        centre.deep_supervision(False)
        network.eval()
        banded = BandedDice(trainer.configuration_manager, trainer.label_manager, device)

        def score(case: int) -> np.ndarray:
            data, segmentation = cases[case]
            rows = []
            for i, point in enumerate(points):
                network.load_state_dict(between(*point) if states is None else states[i])
                rows.append(banded.count(data, segmentation, ["own"], lambda x, _: [("own", network(x))])["own"])
            counts = np.stack(rows)
            empty = not counts[..., [0, 2]].any()
            return np.full(counts.shape[:2], np.nan) if empty else dice_of_counts(counts)

        found = score_cases(score, len(cases), kept, title, progress, say)
    return np.stack([mean_over_labels(dice) for dice in found], 1)


def own_point(model: ModelFolder, fold: int | str) -> tuple[State, State, float]:
    """A model's own network as the point of a line without length."""
    weights = network_weights(load_checkpoint(model.checkpoint_path(fold)))
    return weights, weights, 1
