"""What nnU-Net's own validation found: Dice of every case of the host's under every model that was validated here."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nnunetv2_stitch.evaluation.labels import Labels
from nnunetv2_stitch.evaluation.statistics import interval
from nnunetv2_stitch.evaluation.tables import with_interval
from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.nnunet_internals import values_of_key
from nnunetv2_stitch.parties.model_folder import FINAL

SEED, RESAMPLES = 12345, 2000

Case = tuple[int | str, str]  # fold and name
CaseDice = Mapping[Case, Mapping[str, float]]  # by case and row of `Labels`


@dataclass(frozen=True)
class Answer:
    """A model that answers on the host's validation cases.

    Attributes:
        name: for readers, such as `A alone`.
        folder: model folder.
        folds: by fold of the result the model's own.
        mode: of a stitched ensemble, as `StitchedPredictor` takes it; empty for the model as it is.
        checkpoint_name: that is used.
        has_maps: it is a stitched ensemble as deployed, and its maps of disagreement and shares are shown.
        of_host: whether nnU-Net's validation of this model was on the host's cases.
        is_host_alone: it is the host's own model, with which the others are compared.
    """

    name: str
    folder: str
    folds: Mapping[int | str, int | str]
    mode: str = ""
    checkpoint_name: str = FINAL
    has_maps: bool = False
    of_host: bool = True
    is_host_alone: bool = False

    def validation(self, fold: int | str) -> str | None:
        """Folder of nnU-Net's validation of the same answers, if it can be there: nnU-Net validates the model as it is
        with its final checkpoint, and a fold's cases are its own only under the same fold."""
        own = self.folds.get(fold)
        if not self.of_host or str(own) != str(fold) or self.mode or self.checkpoint_name != FINAL:
            return None
        return os.path.join(self.folder, f"fold_{own}", "validation")


def validated_dice(answer: Answer, labels: Labels, ending: str) -> dict[Case, dict[str, float]]:
    """Dice by fold, case and row of the labels, from nnU-Net's `summary.json`; folds that were not validated are left
    out. The foreground mean of a case is over the labels that are in it. `ending` is that of the dataset's files.

    Raises:
        StitchError: a summary that is not readable.
    """
    found = {}
    for fold in answer.folds:
        folder = answer.validation(fold)
        path = os.path.join(folder or "", "summary.json")
        if folder is None or not os.path.isfile(path):
            continue
        for row in read_json(path)["metric_per_case"]:
            by_value = {values_of_key(key): m["Dice"] for key, m in row["metrics"].items()}
            dice = {name: by_value.get(values, by_value.get(tuple(sorted(values)))) for name, values in
                    labels.regions.items()}
            dice = {name: math.nan if value is None else float(value) for name, value in dice.items()}
            known = [v for v in dice.values() if math.isfinite(v)]
            dice[labels.main] = float(np.mean(known)) if known else math.nan
            # nnU-Net writes where the files were: on whatever system, and perhaps not here any more.
            found[fold, re.split(r"[\\/]", row["reference_file"])[-1].removesuffix(ending)] = dice
    return found


@dataclass(frozen=True)
class Measured:
    """Tables `(caption, rows)` and sentences; `dice` by answer; `without_host`: why the host alone has no row, empty
    where it has one, or where nobody asked for it."""

    tables: tuple[tuple[str, list[dict[str, str]]], ...]
    said: tuple[str, ...]
    dice: Mapping[str, CaseDice]
    without_host: str = ""


def measured(answers: Sequence[Answer], labels: Labels, ending: str, missing: list[str]) -> Measured:
    """Means with 95 % intervals of every answer that was validated, and its difference to the first one's on the cases
    of both; of answers that were not, a line in `missing`.

    Args:
        answers: A alone first, the result last.
    """
    found, without_host = {a.name: validated_dice(a, labels, ending) for a in answers}, ""
    for answer in answers:
        cases, all_cases = len(found[answer.name]), len(found[answers[-1].name])
        if not cases and (answer.is_host_alone or any(answer.validation(f) for f in answer.folds)):
            why = _why_none(answer)
            if answer.is_host_alone:
                without_host = why
            if not (answer.is_host_alone and all_cases):  # else it is said where the row would be
                missing.append(why)
        elif cases and all_cases and cases != all_cases:
            missing.append(f"{answer.name} was validated on {cases} cases, {answers[-1].name} on {all_cases}; "
                           f"differences are of the cases of both.")
    there = {name: dice for name, dice in found.items() if dice}
    first, result = answers[0].name, answers[-1].name
    tables = []
    for label in dict.fromkeys((labels.main, *labels.regions)):
        rows = [_row(name, dice, first, there.get(first, {}), label) for name, dice in there.items()]
        if rows:
            tables.append((label, rows))
    said = []
    if first in there and result in there and first != result:
        said.append(_sentence(result, first, there[result], there[first], labels.main))
    elif result in there:
        said.append(f"{result[0].upper()}{result[1:]}: mean Dice {_shown(_values(there[result], labels.main))} on "
                    f"{len(there[result])} validation cases.")
    return Measured(tuple(tables), tuple(said), found, without_host)


def _why_none(answer: Answer) -> str:
    why = (f"{answer.folder} holds no validation of nnU-Net's (fold_K/validation/summary.json); "
           f"nnUNetv2_train with --val, as the model was trained, makes it"
           if any(answer.validation(f) for f in answer.folds) else
           "nnU-Net validates final checkpoints, on the cases of their own fold, and this is none")
    return f"Dice of {answer.name}: {why}."


def _row(name: str, dice: CaseDice, first: str, theirs: CaseDice, label: str) -> dict[str, str]:
    """A row of `name`; `theirs` are of the `first` answer, empty where it was not validated."""
    values, difference = _values(dice, label), _differences(dice, theirs, label)
    row = {"model": name, "cases": str(len(values)), "mean Dice [95 % interval]": _shown(values),
           "worst case": f"{min(values):.3f}" if len(values) else "-"}
    if theirs:
        row[f"difference to {first} [95 % interval]"] = "" if name == first else _shown(difference, "+.3f")
        row["better / worse"] = "" if name == first else f"{(difference > 0).sum()} / {(difference < 0).sum()}"
    return row


def _sentence(result: str, first: str, ours: CaseDice, theirs: CaseDice, label: str) -> str:
    both = [key for key in ours if key in theirs]
    difference = _differences(ours, theirs, label)
    if not len(difference):
        return f"No validation case has a label under both {first} and {result}."
    low, high = interval(difference, SEED, RESAMPLES)
    verdict = "" if not math.isfinite(low) else (
        " The interval holds 0: these cases do not tell the two apart." if low <= 0 <= high else
        f" The interval lies {'above' if low > 0 else 'below'} 0.")
    means = [_shown(_values({k: d[k] for k in both}, label), bounds=False) for d in (ours, theirs)]
    return (f"Mean Dice on {len(difference)} of A's validation cases: {result} {means[0]}, {first} {means[1]}; "
            f"difference {_shown(difference, '+.3f')}.{verdict}")


def _values(dice: CaseDice, label: str) -> np.ndarray:
    values = np.array([d[label] for d in dice.values()], dtype=float)
    return values[np.isfinite(values)]


def _differences(ours: CaseDice, theirs: CaseDice, label: str) -> np.ndarray:
    values = np.array([ours[key][label] - theirs[key][label] for key in ours if key in theirs], dtype=float)
    return values[np.isfinite(values)]


def _shown(values: np.ndarray, digits: str = ".3f", bounds: bool = True) -> str:
    if not len(values):
        return "-"
    low, high = interval(values, SEED, RESAMPLES) if bounds else (math.nan, math.nan)
    return with_interval(*(round(float(v), 3) + 0.0 for v in (values.mean(), low, high)), digits)  # no -0.000


def three_cases(dice: CaseDice, label: str) -> list[tuple[str, Case]]:
    """The best, median and worst case by Dice, fewer where there are fewer; without Dice none."""
    ranked = sorted((key for key, d in dice.items() if math.isfinite(d[label])), key=lambda key: -dice[key][label])
    if not ranked:
        return []
    places = {"best": 0, "median": len(ranked) // 2, "worst": len(ranked) - 1}
    if len(ranked) < 3:
        del places["median"]
    return [(name, ranked[place]) for name, place in places.items() if name == "best" or place > 0]
