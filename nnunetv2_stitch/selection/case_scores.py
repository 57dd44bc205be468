"""Dice of single validation cases at every position, kept beside a fold's sweep, and the position that retention takes.

They name no case, but they stay where they are: what travels between parties are the sweep's means.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.selection.dice import mean_over_labels
from nnunetv2_stitch.selection.retention import TOLERANCE, Retention, retained
from nnunetv2_stitch.selection.sweep import REFERENCE, PositionSweep

CASES_FILE = "sweep_cases.json"


@dataclass(frozen=True)
class CaseScores:
    """Of one fold: Dice, mean over labels, `ensemble` by position and case, `host` of the host alone by case; NaN, null
    in JSON, where the reference has no label. `parties` names the partner at each position."""

    positions: list[int]
    parties: list[str]
    ensemble: list[list[float]]
    host: list[float]

    @classmethod
    def of(cls, sweeper: PositionSweep, scores: Sequence[np.ndarray]) -> CaseScores:
        """From what a `PositionSweep` scored: Dice `(rows, labels)` of each case."""
        cases = [dict(zip(sweeper.rows, mean_over_labels(dice))) for dice in scores]
        # A case without any label tells nothing apart: whatever is predicted there is wrong.
        known = [not np.isnan(case[REFERENCE]) for case in cases]

        def row(name: str) -> list[float]:
            return [float(case[name]) if k else float("nan") for case, k in zip(cases, known)]

        return cls(list(sweeper.positions), [sweeper.network.party_at(p) for p in sweeper.positions],
                   [row(f"ensemble@{p}") for p in sweeper.positions], row(sweeper.network.parties[0]))

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def read(cls, fold_folder: str) -> CaseScores:
        """
        Raises:
            StitchError: the fold was swept before such scores were kept, or the file is damaged.
        """
        path = os.path.join(fold_folder, CASES_FILE)
        again = "delete sweep.json of this fold and train with --c, which sweeps again, or take another -rule"
        if not os.path.isfile(path):
            raise StitchError(f"{path} does not exist, so -rule retain has nothing to go by; {again}")
        try:
            return cls(**read_json(path))
        except TypeError as error:
            raise StitchError(f"{path} is not what a sweep writes; {again}") from error


def choose_by_retention(folds: Sequence[CaseScores], tolerance: float = TOLERANCE,
                        near_best: bool = True) -> dict[int, Retention]:
    """One position with each partner, in the order of `rules.choose_each`, with why; the same for all folds, whose
    cases are pooled.

    Path: positions from the first to the last. The host alone is not on it, so where no position reaches it the best is
    taken. `near_best`: see `retained`.

    Raises:
        StitchError: the folds' positions differ, or no case has a label.
    """
    first = folds[0]
    if any(f.positions != first.positions for f in folds):
        raise StitchError("the folds' sweeps cover different positions; train them with the same -positions")
    scores, host = (np.concatenate([np.array(getattr(f, name), dtype=float) for f in folds], -1)
                    for name in ("ensemble", "host"))
    chosen = {}
    for party in sorted(set(first.parties)):
        own = [i for i, p in enumerate(first.parties) if p == party]
        found = retained(scores[own], host, tolerance, False, near_best)
        chosen[first.positions[own[found.index]]] = found
    return chosen
