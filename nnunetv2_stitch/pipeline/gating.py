"""The gate of a stitched ensemble: signatures under every partner's network, its threshold chosen by retention."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from nnunetv2.paths import nnUNet_results
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.gating.gate import Gate, GateOptions
from nnunetv2_stitch.gating.signature import LEVELS, Signature, read_signature
from nnunetv2_stitch.gating.tile_features import signature_of
from nnunetv2_stitch.parties.checkpoint import load_checkpoint
from nnunetv2_stitch.parties.model_folder import FINAL
from nnunetv2_stitch.pipeline.job import Job
from nnunetv2_stitch.selection.bands import BandedDice
from nnunetv2_stitch.selection.deploy import GATE
from nnunetv2_stitch.selection.dice import dice_of_counts, mean_dice, mean_over_labels
from nnunetv2_stitch.selection.retention import TOLERANCE, mean_and_error, retained
from nnunetv2_stitch.selection.scoring import SettingScorer
from nnunetv2_stitch.stitching.network import StitchedEnsemble
from nnunetv2_stitch.stitching.plans import ParentRecord, Stitching, shown_names
from nnunetv2_stitch.stitching.setting import Setting

GATE_FIGURE = "gate_shares.png"
LEADS = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)  # of the host, at the least careful threshold
# (quantile, lead), from the most careful gate, which gives most images even shares, to the one that gives the host all
# images that are not like a partner's.
PATH = (*((q, 0.0) for q in LEVELS[::-1]), *((LEVELS[0], lead) for lead in LEADS))
UNKNOWN = (0.2, 0.0)  # where nothing can be chosen by Dice
WHOLLY = (0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999)  # tried; else only where no share is left for the others
NEVER = 2.0  # no share is as large


@dataclass(frozen=True)
class FoundGate:
    """`options` None: no gate, because on A's cases none is as good as even shares. `statistics`: by fold, what goes
    into the weights. `dice`: by fold, on A's validation cases, as deployed. `record`: for stitch_selection.json."""

    options: GateOptions | None
    statistics: dict[int | str, dict[str, torch.Tensor]]
    dice: dict[int | str, float]
    record: dict
    remarks: list[str]

    def to_json(self) -> dict | None:
        return None if self.options is None else self.options.to_json()


@dataclass(frozen=True)
class _Fold:
    """One fold's network as deployed, with the gates of `PATH`; A's validation cases; what was found on them: Dice
    `(cases, labels)` by row and A's mean share by gate and case."""

    network: StitchedEnsemble
    gates: list[Gate]
    banded: BandedDice
    cases: Sequence
    dice: dict[str, np.ndarray]
    shares: list[list[float]]


def find_gate(job: Job, settings: Mapping[int | str, Setting], device: torch.device,
              say: Callable[[str], None] = lambda line: None) -> FoundGate:
    """Measure A's signature under each partner's network, take the partners' from their models, and choose the gate of
    the folds' settings: the most careful threshold whose own Dice is within one standard error of A alone, and the
    smallest share that counts as the whole without changing a voxel of A's validation cases.

    Raises:
        StitchError: a signature that is none, or no preprocessed data.
    """
    plans = read_json(job.plans_file)
    signatures = {f: _signatures(job, plans, f) for f in job.folds}
    measured = [all(found[i] is not None for found in signatures.values()) for i in range(len(job.partners))]
    records = Stitching.of(plans["configurations"][job.host.configuration]).parents[1:]
    adapted = {i: j for i, j in _spoken_for(records, signatures).items() if measured[i]}
    known = tuple(m and i not in adapted for i, m in enumerate(measured))
    folds = {}
    for fold in job.folds:
        say(f"fold {fold}: A's signature and the gate's threshold")
        theirs = [s if k else None for s, k in zip(signatures[fold], known)]
        folds[fold] = _score(_open(job, plans, fold, settings[fold], GateOptions(known, UNKNOWN[0]), theirs, device))
    scores = {row: np.concatenate([mean_over_labels(f.dice[row]) for f in folds.values()]) for row in _rows()}
    index, why, keeps = _choose(scores)
    dice = {f: mean_dice(found.dice[str(index) if keeps else "even"]) for f, found in folds.items()}
    shares = [[s for f in folds.values() for s in f.shares[i]] for i in range(len(PATH))]
    record = {"chosen": index if keeps else None, "reason": why, "partners_known": list(known),
              "path": [{"quantile": q, "lead": lead} for q, lead in PATH], "host_shares": shares,
              "dice": [mean_and_error(scores[str(i)])[0] for i in range(len(PATH))],
              "dice_host": mean_and_error(scores["host"])[0], "dice_even": mean_and_error(scores["even"])[0],
              "dice_error": mean_and_error(scores[str(index)] - scores["host"])[1]}
    remarks = [f"Without a signature of {p.dataset_name} the gate knows A's images alone; ask for a model exported by "
               f"this version of nnUNetv2_export_party." for p, m in zip(job.partners, measured) if not m]
    names = shown_names(records)
    remarks += [f"Images like those of {names[i]} are left to {names[j]}; both answer images unlike any."
                for i, j in adapted.items()]
    remarks += [f"The signature of {p.dataset_name} is of an earlier version and of tiles of another size, so its "
                f"images may not be recognised; ask for a new export." for i, (p, differ) in
                enumerate(zip(job.partners, _other_tiles(job))) if known[i] and differ
                and not all(found[i].coarse for found in signatures.values())]
    if not keeps:
        return FoundGate(None, {}, dice, record, [*remarks, f"No gate: {why}."])
    wholly = _wholly(folds, index, say)
    quantile, lead = PATH[index]
    statistics = {f: {GATE + k: v.cpu() for k, v in found.gates[index].state_dict().items()}
                  for f, found in folds.items()}
    ahead = f", A ahead by {lead:.0%} on images unlike both" if lead else ""
    remarks.append(f"Gate at the {quantile:.0%} quantile{ahead} ({why}): A has {np.mean(shares[index]):.0%} of the "
                   f"answer to its validation cases, and a party answers alone from {wholly:.2%} on.")
    return FoundGate(GateOptions(known, quantile, wholly=wholly, lead=lead), statistics, dice,
                     {**record, "wholly": wholly}, remarks)


def _signatures(job: Job, plans: dict, fold: int | str) -> list[Signature | None]:
    """The partners', of the folds that were stitched."""
    records = Stitching.of(plans["configurations"][job.host.configuration]).parents[1:]
    with torch.device("meta"):
        sizes = _with_gate(job, plans, GateOptions((False,) * len(records), UNKNOWN[0])).gated.sizes
    folders = [os.path.dirname(r.path(fold, str(nnUNet_results))) for r in records]
    return [read_signature(folder, size) for folder, size in zip(folders, sizes)]


def _spoken_for(records: Sequence[ParentRecord], signatures: Mapping[int | str, Sequence[Signature | None]]
                ) -> dict[int, int]:
    """Partners that are there with the same model adapted, which has the same signature, and where that one stands."""
    def same(i: int, j: int) -> bool:
        return all(s[i] is not None and s[j] is not None and s[i].to_json() == s[j].to_json()
                   for s in signatures.values())
    return {i: j for i, one in enumerate(records) for j, other in enumerate(records)
            if other.adapted and not one.adapted and same(i, j)}


def _gated_plans(job: Job, plans: dict, options: GateOptions) -> dict:
    plans = copy.deepcopy(plans)
    plans["configurations"][job.host.configuration]["architecture"]["arch_kwargs"]["gate"] = options.to_json()
    return plans


def _with_gate(job: Job, plans: dict, options: GateOptions) -> StitchedEnsemble:
    configuration = _gated_plans(job, plans, options)["configurations"][job.host.configuration]
    return StitchedEnsemble(job.host.num_input_channels, job.host.num_outputs,
                            **configuration["architecture"]["arch_kwargs"])


def _open(job: Job, plans: dict, fold: int | str, setting: Setting, options: GateOptions,
          theirs: Sequence[Signature | None], device: torch.device) -> _Fold:
    plans = _gated_plans(job, plans, options)
    scorer = SettingScorer.of_fold(plans, job.host.configuration, job.host.dataset_json, fold, job.model_folder,
                                   str(nnUNet_results), device)
    network = scorer.network.deployed(setting).to(device)
    configuration = PlansManager(plans).get_configuration(job.host.configuration)
    axes = load_checkpoint(os.path.join(job.model_folder, f"fold_{fold}", FINAL)).get(
        "inference_allowed_mirroring_axes")
    own = [signature_of(lambda x, p=p: network.gated.features(p, x), job.preprocessed_folder, configuration, fold,
                        device, axes) for p in network.parties[1:]]
    coarse = [differ and s is not None and bool(s.coarse) for differ, s in zip(_other_tiles(job), theirs)]
    own, theirs = ([s.coarsened() if c else s for s, c in zip(found, coarse)] for found in (own, theirs))
    gates = []
    for quantile, lead in PATH:
        gates.append(copy.deepcopy(network.gate))
        gates[-1].options = replace(options, quantile=quantile, lead=lead)
        gates[-1].set(own, theirs, quantile)
    return _Fold(network, gates, scorer.banded, scorer.validation_cases(job.preprocessed_folder, fold), {}, [])


def _other_tiles(job: Job) -> list[bool]:
    """Of each partner, whether its network sees other tiles here than where its signature was measured."""
    patch = list(job.host.configuration_manager.patch_size)
    return [list(partner.configuration_manager.patch_size) != patch or report.bridge.changes_input
            for partner, report in zip(job.partners, job.reports)]


def _rows() -> list[str]:
    return ["host", "even", *map(str, range(len(PATH)))]


def _score(fold: _Fold) -> _Fold:
    """With Dice and shares."""
    gated, dice, shares = fold.network.gated, {row: [] for row in _rows()}, [[] for _ in PATH]

    def answers(x: torch.Tensor, rows: Sequence[str]) -> Iterator[tuple[str, torch.Tensor]]:
        for row in rows:
            if row == "host":
                yield row, gated.alone[0](x)
            elif row == "even":
                yield row, fold.network.joined(x)
            else:
                fold.network.gate = fold.gates[int(row)]
                fold.network.shares_seen = seen[int(row)]
                yield row, gated(x)
                fold.network.shares_seen = None

    for data, labels in fold.cases:
        seen: list[list[torch.Tensor]] = [[] for _ in PATH]
        for row, counts in fold.banded.count(data, labels, _rows(), answers).items():
            dice[row].append(dice_of_counts(counts))
        for found, passes in zip(shares, seen):
            found.append(float(torch.cat(passes)[:, 0].mean()))
    return replace(fold, dice={row: np.stack(found) for row, found in dice.items()}, shares=shares)


def _choose(scores: Mapping[str, np.ndarray]) -> tuple[int, str, bool]:
    """The gate's place on the path, why, and whether a gate is of any use: a hostile signature could claim all."""
    host, path = scores["host"], np.stack([scores[str(i)] for i in range(len(PATH))])
    if not (np.isfinite(host).any() and np.isfinite(path).any()):
        return PATH.index(UNKNOWN), "A's validation cases hold no foreground label to choose by", True
    chosen = retained(path, host)
    own, even = mean_and_error(path[chosen.index])[0], mean_and_error(scores["even"])[0]
    lost, error = mean_and_error(host - path[chosen.index])
    if own >= even or lost <= TOLERANCE * error:
        return chosen.index, chosen.reason, True
    return chosen.index, (f"even the least careful one is worse on A's cases ({own:.3f}) than even shares "
                                f"({even:.3f}), so a signature does not tell A's images"), False


def _wholly(folds: Mapping[int | str, _Fold], index: int, say: Callable[[str], None]) -> float:
    """The smallest share from which on a party may answer alone, so that no voxel of the validation cases changes."""
    left = list(WHOLLY)
    for name, fold in folds.items():
        say(f"fold {name}: from which share on one network is enough")
        network, gated = fold.network, fold.network.gated
        network.gate, fold.banded.tiler.network = fold.gates[index], network

        def answers(x: torch.Tensor, rows: Sequence[str], gated=gated) -> Iterator[tuple[str, torch.Tensor]]:
            for row in rows:
                gated.wholly = float(row)
                yield row, gated(x)

        for data, _ in fold.cases if left else ():
            gated.wholly = NEVER
            logits = fold.banded.tiler.predict_sliding_window_return_logits(
                torch.from_numpy(np.asarray(data)).float())
            mixed = np.asarray(fold.banded.labels.convert_logits_to_segmentation(logits.float().cpu()))[None]
            found = fold.banded.count(data, mixed, list(map(str, left)), answers) if left else {}
            left = [w for w in left if not found[str(w)][:, 1:].any()]
    return min(left, default=1.0)
