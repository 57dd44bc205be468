"""Measure: Dice of what is chosen, beside that of doing less, on the host's validation cases."""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from nnunetv2.paths import nnUNet_results

from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.pipeline.choosing import Chosen
from nnunetv2_stitch.pipeline.gating import FoundGate, find_gate
from nnunetv2_stitch.pipeline.job import Job
from nnunetv2_stitch.selection.rules import choose_each
from nnunetv2_stitch.selection.scoring import SettingScorer
from nnunetv2_stitch.selection.sweep import Sweep

PARTY_NAMES = string.ascii_uppercase
UNMEASURED = ("What the gate gives is not known, because stitch_selection.json is missing, damaged or of another "
              "choice; the table is of the setting without it. --select chooses and measures anew.")


@dataclass(frozen=True)
class Measured:
    """`table` has one row per fold, see `StitchResult`; `gate` is None where none was asked for."""

    table: list[dict]
    remarks: list[str]
    gate: FoundGate | None = None


def measure(job: Job, sweeps: Sequence[Sweep], chosen: Chosen, device: torch.device,
            say: Callable[[str], None] = lambda line: None,
            seek_gate: bool = True, has_gate: bool = False) -> Measured:
    """The table of the chosen settings, and where the request wants it the gate that goes with them. Writes nothing.

    Args:
        seek_gate: False: not even where the request wants it.
        has_gate: the settings are deployed behind a gate, which is not measured here; so they are not compared.

    Raises:
        StitchError: parents or stitches are missing or changed, or there are no preprocessed data.
    """
    measured = {f: g.score for f, g in chosen.guided.items()}
    if not measured and (chosen.is_weighted or len(job.partners) > 1):
        measured = _scores(job, sweeps, chosen, device)
    table = _table(job, sweeps, chosen, measured)
    gate = find_gate(job, chosen.settings, device, say) if job.request.gate and seek_gate else None
    for row in table if gate else ():
        row["gated"] = gate.dice[row["fold"]]
    compared = [UNMEASURED] if has_gate else _remarks(table)
    remarks = [*job.label_remarks, *_unscored(sweeps), *compared, *(gate.remarks if gate else ()),
               *(line for c in chosen.choices for line in c.remarks)]
    if len(chosen.choices) > 1:
        remarks.append("Partners' numbers are of one position at a time; all together were tried on A's validation "
                       "cases only.")
    return Measured(table, remarks, gate)


def _scores(job: Job, sweeps: Sequence[Sweep], chosen: Chosen, device: torch.device) -> dict[int | str, float]:
    """Dice of each fold's setting where no sweep tells it, because more than one position is active; NaN where no
    validation case holds foreground."""
    found, plans = {s.fold: math.nan for s in sweeps if not s.scorable}, read_json(job.plans_file)
    for fold, setting in ((f, s) for f, s in chosen.settings.items() if f not in found):
        scorer = SettingScorer.of_fold(plans, job.host.configuration, job.host.dataset_json, fold, job.model_folder,
                                       str(nnUNet_results), device)
        found[fold] = scorer.score(setting, scorer.validation_cases(job.preprocessed_folder, fold))
    return found


def _table(job: Job, sweeps: Sequence[Sweep], chosen: Chosen, measured: Mapping[int | str, float]) -> list[dict]:
    positions = {} if chosen.is_weighted else chosen.positions
    scored = sum(s.scorable for s in sweeps)
    rules = (["1", "2"] if scored else []) + (["loo"] if scored > 1 else [])
    choices = {f"rule {r}": choose_each(sweeps, r) for r in rules} if len(job.partners) == 1 else {}
    if job.request.rule == "3" and not measured:
        choices["rule 3"] = positions
    rows = []
    for sweep in sweeps:
        values = dict(zip(sweep.positions, sweep.values(chosen.settings[job.folds[0]].output)))
        row = {"fold": sweep.fold, **{PARTY_NAMES[i]: sweep.baselines[p] for i, p in enumerate(job.layout.nodes)},
               "plain ensemble": sweep.baselines["ensemble"]}
        for name, choice in choices.items():
            row[name] = values[choice[sweep.fold][0]]
        for position in positions.get(sweep.fold, ()) if measured else ():
            party = list(job.layout.nodes).index(job.layout.matches[position].party)
            row[f"with {PARTY_NAMES[party]} only"] = values[position]
        row["chosen"] = measured.get(sweep.fold) if measured else _at(sweep, values, positions)
        rows.append(row)
    return rows


def _at(sweep: Sweep, values: dict[int, float], chosen: dict) -> float:
    """Dice at the chosen position; of no position that of the plain ensemble."""
    return values[chosen[sweep.fold][0]] if chosen.get(sweep.fold) else sweep.baselines["ensemble"]


def _unscored(sweeps: Sequence[Sweep]) -> list[str]:
    folds = [str(s.fold) for s in sweeps if not s.scorable]
    return [f"The validation cases of fold {', '.join(folds)} hold no foreground label, so they took no part in the "
            f"choice."] if folds else []


def _remarks(table: list[dict]) -> list[str]:
    """Plain words where the chosen setting is no better on validation than doing less."""
    table = [row for row in table if all(map(math.isfinite, (row["A"], row["plain ensemble"], row["chosen"])))]
    if not table:
        return []
    mean = {k: float(np.mean([row[k] for row in table])) for k in ("A", "plain ensemble")}
    # What is deployed: with a gate the position is only the answer to images like no party's.
    deployed = float(np.mean([row.get("gated", row["chosen"]) for row in table]))
    name = "gated model" if "gated" in table[0] else "stitched ensemble"
    return [f"On A's validation cases the {name} ({deployed:.3f}) is worse than {what} ({mean[key]:.3f})."
            for key, what in (("A", "A alone"), ("plain ensemble", "the plain ensemble"))
            if round(deployed, 3) < round(mean[key], 3)]
