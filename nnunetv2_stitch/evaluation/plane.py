"""Own cases against a partner's: which models no other beats on both, and how much they cover together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from nnunetv2_stitch.evaluation.statistics import Summary, from_json, to_json
from nnunetv2_stitch.evaluation.unseen import UnseenMean

REFERENCE_POINT = (0.0, 0.0)


@dataclass(frozen=True)
class PlanePoint:
    """A model's mean on own cases (`x`), on the partner's (`y`) and over unseen hospitals (`z`, NaN where there are
    none), with 95 % intervals. `on_front`: no model is at least as good on both of the first and better on one;
    `on_unmarked_front`: none of those without a note; `on_unseen_front`: none on all three, where there are three."""

    model: str
    x: float
    x_low: float
    x_high: float
    y: float
    y_low: float
    y_high: float
    on_front: bool
    on_unmarked_front: bool
    z: float = math.nan
    z_low: float = math.nan
    z_high: float = math.nan
    on_unseen_front: bool = False


@dataclass(frozen=True)
class Plane:
    """Means of one measure on the host's cases and on one partner's, for all models, and as a third axis their mean
    over the hospitals `unseen`.

    `hypervolume`: area that the front covers, measured from `reference`; `unmarked_hypervolume` the same for models
    without a note; `unseen_hypervolume` the volume with the third axis. For Dice, 1 is a perfect model.
    """

    own: str
    partner: str
    label: str
    measure: str
    points: tuple[PlanePoint, ...]
    hypervolume: float
    unmarked_hypervolume: float
    reference: tuple[float, float] = field(default=REFERENCE_POINT)
    unseen: tuple[str, ...] = ()
    unseen_hypervolume: float = math.nan

    @property
    def front(self) -> list[str]:
        """Models on the front, from the best on own cases to the best on the partner's."""
        return [p.model for p in sorted(self.points, key=lambda p: -p.x) if p.on_front]

    def to_json(self) -> dict:
        return {**to_json(self), "points": [to_json(p) for p in self.points], "reference": list(self.reference),
                "unseen": list(self.unseen)}

    @classmethod
    def from_json(cls, value: Mapping) -> Plane:
        plane = dict(value, points=tuple(from_json(PlanePoint, p) for p in value["points"]),
                     reference=tuple(value["reference"]), unseen=tuple(value.get("unseen", ())))
        return from_json(cls, plane)


def pareto_front(points: Sequence[Sequence[float]]) -> list[bool]:
    """Which points no other dominates, larger being better on every axis. Equal points are on the front together;
    points with NaN never are."""
    import moocore

    if not len(points):
        return []
    points = np.asarray(points, dtype=float)
    known = np.isfinite(points).all(axis=1)
    front = np.zeros(len(points), dtype=bool)
    if known.any():
        front[known] = moocore.is_nondominated(points[known], maximise=True, keep_weakly=True)
    return front.tolist()


def hypervolume(points: Sequence[Sequence[float]], reference: Sequence[float] = REFERENCE_POINT) -> float:
    """Volume of what the points dominate above `reference`, larger being better; 0 for no points."""
    import moocore

    points = [p for p in points if np.isfinite(p).all()]
    return float(moocore.hypervolume(np.array(points), ref=list(reference), maximise=True)) if points else 0.0


def plane(own: str, partner: str, summaries: Sequence[Summary], unmarked: Sequence[str],
          unseen: Sequence[UnseenMean] = ()) -> Plane:
    """From the summaries of one label and measure (larger being better) of both parties.

    Args:
        own, partner: names of the test sets.
        summaries: of all models; others than of these two parties are passed over.
        unmarked: models that need nothing beyond what all need.
        unseen: means over hospitals that are no party, of the same label and measure; none for two axes.
    """
    by = {(s.model, s.party): s for s in summaries}
    models = list(dict.fromkeys(s.model for s in summaries if (s.model, own) in by and (s.model, partner) in by))
    at = {m: (by[m, own].mean, by[m, partner].mean) for m in models}
    front = dict(zip(models, pareto_front([at[m] for m in models])))
    plain = [m for m in models if m in set(unmarked)]
    plain_front = dict(zip(plain, pareto_front([at[m] for m in plain])))
    third = {u.model: (u.mean, u.low, u.high) for u in unseen}
    solid = [(*at[m], third[m][0]) for m in models] if third else []
    unseen_front = dict(zip(models, pareto_front(solid)))
    points = []
    for m in models:
        x, y = by[m, own], by[m, partner]
        points.append(PlanePoint(m, x.mean, x.low, x.high, y.mean, y.low, y.high, front[m], plain_front.get(m, False),
                                 *third.get(m, (math.nan,) * 3), unseen_front.get(m, False)))
    return Plane(own, partner, summaries[0].label, summaries[0].measure, tuple(points),
                 hypervolume(list(at.values())), hypervolume([at[m] for m in plain]),
                 unseen=unseen[0].hospitals if unseen else (),
                 unseen_hypervolume=hypervolume(solid, (*REFERENCE_POINT, 0.0)) if third else math.nan)
