"""The parts of a result's page that are the same whatever made the result: what was measured, and a few cases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from nnunetv2_stitch.evaluation.case_pictures import MAPPED, case_figures, find_site
from nnunetv2_stitch.evaluation.page import Figure
from nnunetv2_stitch.evaluation.result_page import Table
from nnunetv2_stitch.evaluation.validated import Answer, Measured, measured, three_cases

HOW_MEASURED = ("nnU-Net's own validation: whole cases, on the original grid, with mirroring, in the fold that did not "
                "train on them. Mean over cases [95 % interval: bootstrap over cases, BCa].")
TRAINED_ON = ("Fold 'all' was trained on the cases that it is validated with: these numbers say nothing of other "
              "patients.")

SEEN = ("Numbers: Dice, {label}. White outline: the reference. In 3d the slice with most errors. Three cases are "
        "examples and no measure.")
MAPS = (" Disagreement: how much the untouched parents' probabilities differ. A's share, where there is a gate: how "
        "much of the answer it leaves to A. Both in percent.")


@dataclass(frozen=True)
class Parts:
    """For the fields of `ResultPage` of these names. `without_host`: see `Measured`."""

    said: tuple[str, ...]
    tables: tuple[Table, ...]
    cases: tuple[Figure, ...]
    missing: tuple[str, ...]
    cases_note: str
    without_host: str = ""


def measured_and_shown(dataset: str, answers: Sequence[Answer], device: torch.device) -> Parts:
    """What nnU-Net's validation found, and pictures of three cases.

    Args:
        dataset: the host's.
        answers: A alone first, the result last.
        device: where to predict what no validation has left.

    Raises:
        StitchError: dataset.json, or a summary of nnU-Net's, is missing or cannot be read.
    """
    site, missing = find_site(dataset), []
    found = measured(answers, site.labels, site.ending, missing)
    by = next((a.name for a in (answers[-1], answers[0]) if found.dice[a.name]), "")
    cases = [(f"{name} case under {by}", key) for name, key in three_cases(found.dice.get(by, {}), site.labels.main)]
    drawn = case_figures(site, cases, answers, device, missing)
    trained_on = [TRAINED_ON] if "all" in answers[-1].folds else []
    return Parts((*found.said, *trained_on), _tables(found), tuple(drawn), tuple(missing),
                 SEEN.format(label=site.labels.main) + (MAPS if any(f.section == MAPPED for f in drawn) else ""),
                 found.without_host)


def _tables(found: Measured) -> tuple[Table, ...]:
    def table(number: int, label: str, rows: list[dict[str, str]]) -> Table:
        is_first, note = number == 0, f"{HOW_MEASURED} {found.without_host}".strip()
        return Table(f"A's validation cases, {label}" if is_first else f"Dice of {label}", rows,
                     note if is_first else "", 0 if len(rows) > 1 else None, folded=not is_first)

    return tuple(table(number, *told) for number, told in enumerate(found.tables))


def beside_host(parts: Parts, result: str, ours: float | None, host: float | None) -> list[str]:
    """Where nnU-Net's validation of the host alone is not here: both by what was measured while choosing, a sentence or
    none. It is no comparison of `parts`' tables with these numbers.

    Args:
        result: what the answer is called.
        ours, host: means on the host's validation cases; None or NaN where they are not known.
    """
    if not parts.without_host or any(v is None or not math.isfinite(v) for v in (ours, host)):
        return []
    return [f"nnU-Net's own validation of A alone is not here. On the same cases, while choosing (preprocessed grid, "
            f"no mirroring): {result} {ours:.3f}, A alone {host:.3f}; difference {ours - host:+.3f}."]


def as_text(rows: Sequence[Mapping], digits: int = 3) -> list[dict[str, str]]:
    """Rows of numbers for a `Table`: what is missing or no number is `-`."""
    def shown(value) -> str:
        if isinstance(value, float):
            return f"{value:.{digits}f}" if value == value else "-"
        return "-" if value is None else str(value)

    columns = dict.fromkeys(key for row in rows for key in row)
    return [{column: shown(row.get(column)) for column in columns} for row in rows]
