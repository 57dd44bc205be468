"""Positions judged by several parties: the Pareto front and which of its points to take, as pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.evaluation.plane import pareto_front
from nnunetv2_stitch.selection.rules import with_scores
from nnunetv2_stitch.selection.sweep import Sweep

PREFERENCES = ("own", "balanced", "partner")
DIGITS = 6  # smaller differences are rounding, on the front as in ties


@dataclass(frozen=True)
class PartyScores:
    """One party's Dice, mean over folds: by position, and of the untouched host, the partner that is stitched there and
    the plain ensemble."""

    party: str
    values: tuple[float, ...]
    host: float
    partner: float
    ensemble: float
    cases: int

    @property
    def gains(self) -> tuple[float, ...]:
        """By position: Dice beyond the plain ensemble's."""
        return tuple(round(v - self.ensemble, DIGITS) for v in self.values)


@dataclass(frozen=True)
class Front:
    """Positions of one model as several parties see them, the host first. `on_front`: no other position is at least
    as good for every party and better for one."""

    positions: tuple[int, ...]
    names: tuple[str, ...]
    parties: tuple[PartyScores, ...]
    on_front: tuple[bool, ...]

    def to_json(self) -> dict:
        return asdict(self)

    def rows(self) -> list[dict]:
        """The front as a table: position, layer, and each party's Dice; best for the host first."""
        order = sorted((i for i, on in enumerate(self.on_front) if on),
                       key=lambda i: (-self.parties[0].values[i], self.positions[i]))
        return [{"position": self.positions[i], **{p.party: p.values[i] for p in self.parties},
                 "layer": self.names[i]} for i in order]


def mean_over_folds(party: str, sweeps: Sequence[Sweep], positions: Sequence[int], output: str = "ensemble",
                    ) -> PartyScores:
    """One party's scores at `positions`, which every sweep must cover and which join the host with the same partner.
    `output`: whose head answers. Folds whose cases hold no foreground take no part.

    Raises:
        NothingToScore: no fold's cases hold any.
    """
    sweeps = with_scores(sweeps)
    by_fold = [[s.values(output)[s.positions.index(p)] for p in positions] for s in sweeps]
    values = tuple(_mean(column) for column in zip(*by_fold))
    partner = sweeps[0].parties[sweeps[0].positions.index(positions[0])]
    host, partner, ensemble = (_mean([s.baselines[k] for s in sweeps]) for k in ("host", partner, "ensemble"))
    return PartyScores(party, values, host, partner, ensemble, cases=sum(s.cases for s in sweeps))


def _mean(values: Sequence[float]) -> float:
    return round(math.fsum(values) / len(values), DIGITS)


def find_front(positions: Sequence[int], names: Sequence[str], parties: Sequence[PartyScores]) -> Front:
    """The Pareto front over positions; positions that are equal for every party are on it together."""
    points = np.array([p.values for p in parties]).T
    return Front(tuple(positions), tuple(names), tuple(parties), tuple(pareto_front(points)))


def prefer(front: Front, preference: str) -> int:
    """The position on the front that a preference asks for; the order of the partners does not matter.

    `own` takes the best for the host. `partner` takes the best for the partner, `balanced` the best for host and
    partner together; of several parties' gains over their plain ensemble, the smallest counts first, then the next
    (leximin), because a mean would let one party's gain pay for another's loss. Of equally good positions, `own` goes
    by the partners' gains and `partner` by the host's; then the earliest wins.

    Raises:
        StitchError: no such preference.
    """
    host, *partners = [p.gains for p in front.parties]

    def worst_first(gains: Sequence[Sequence[float]], i: int) -> tuple[float, ...]:
        return tuple(sorted(g[i] for g in gains))

    keys = {
        "own": lambda i: (host[i], worst_first(partners, i)),
        "partner": lambda i: (worst_first(partners, i), host[i]),
        "balanced": lambda i: worst_first([host, *partners], i),
    }
    if preference not in keys:
        raise StitchError(f"-prefer {preference!r} is not one of {', '.join(PREFERENCES)}")
    candidates = [i for i, on in enumerate(front.on_front) if on]
    return front.positions[max(candidates, key=lambda i: (keys[preference](i), -front.positions[i]))]
