"""Hospitals that are no party: the one mean over test sets that there is, since none of them is anybody's objective."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nnunetv2_stitch.evaluation.statistics import LEVEL, from_json, to_json


@dataclass(frozen=True)
class UnseenMean:
    """A measure of one model on the hospitals that trained nothing: the mean of the hospitals' means, each counting
    alike, with its 95 % interval, and the same of the paired difference to the host alone (NaN for the host itself).
    NaN where the measure is not defined for a model at one of the `hospitals`; an interval needs two cases at each."""

    model: str
    label: str
    measure: str
    hospitals: tuple[str, ...]
    mean: float
    low: float
    high: float
    difference: float = math.nan
    difference_low: float = math.nan
    difference_high: float = math.nan

    def to_json(self) -> dict:
        return {**to_json(self), "hospitals": list(self.hospitals)}

    @classmethod
    def from_json(cls, value: Mapping) -> UnseenMean:
        return from_json(cls, {**value, "hospitals": tuple(value["hospitals"])})

    @property
    def differs(self) -> bool:
        """Whether the interval of the difference leaves out 0."""
        return self.difference_low > 0 or self.difference_high < 0  # False for NaN


def mean_of_hospitals(values: Sequence[Sequence[float]], seed: int, resamples: int) -> tuple[float, float, float]:
    """Mean of the strata's means and its 95 % interval, by the bootstrap over cases within each stratum (percentiles).

    Args:
        values: the cases of each hospital; NaN are left out.

    Example:
        >>> mean_of_hospitals([[0.5, 0.5], [1.0, 1.0, 1.0]], seed=1, resamples=99)
        (0.75, 0.75, 0.75)
    """
    strata = [v[np.isfinite(v)] for v in (np.asarray(v, dtype=float) for v in values)]
    if not strata or not all(len(v) for v in strata):
        return math.nan, math.nan, math.nan
    mean = float(np.mean([v.mean() for v in strata]))
    if min(map(len, strata)) < 2:
        return mean, math.nan, math.nan
    rng = np.random.default_rng(seed)
    means = np.mean([v[rng.integers(0, len(v), (resamples, len(v)))].mean(1) for v in strata], 0)
    low, high = np.quantile(means, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return mean, float(low), float(high)


def over_hospitals(values: Mapping[str, Mapping[str, Sequence[float]]], host: str, seed: int, resamples: int,
                   **keys: str) -> list[UnseenMean]:
    """A row per model.

    Args:
        values: model -> hospital -> one value per case, NaN where it is not defined, in the same order for all models.
            A hospital where it is defined for no model, which has no such label, is left out.
        host: the model that differences are to.
        keys: label and measure.
    """
    known = {h: any(np.isfinite(by[h]).any() for by in values.values()) for h in values[host]}
    hospitals = tuple(h for h, some in known.items() if some)
    rows = []
    for model, by in values.items():
        found = mean_of_hospitals([by[h] for h in hospitals], seed, resamples)
        paired = (math.nan,) * 3 if model == host else mean_of_hospitals(
            [np.subtract(by[h], values[host][h]) for h in hospitals], seed, resamples)
        rows.append(UnseenMean(model=model, **keys, hospitals=hospitals, mean=found[0], low=found[1], high=found[2],
                               difference=paired[0], difference_low=paired[1], difference_high=paired[2]))
    return rows
