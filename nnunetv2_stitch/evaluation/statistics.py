"""Means with intervals, and paired tests against the host alone: per party, never over parties."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LEVEL = 0.95
ALPHA = 0.05
SMALLEST_N = 6  # the two-sided exact test of five pairs cannot go below 2 / 2^5 = 0.0625


@dataclass(frozen=True)
class Summary:
    """A measure of one model on one party's cases.

    `mean` over `n` cases in which it is defined, `low` and `high` its 95 % interval (NaN below two cases), `cases` all
    cases, `one_sided` those in which only the reference or only the prediction has the label.
    """

    model: str
    party: str
    label: str
    measure: str
    n: int
    mean: float
    low: float
    high: float
    cases: int
    one_sided: int = 0


@dataclass(frozen=True)
class PairedTest:
    """A model against the host alone on one party's cases: Wilcoxon's signed-rank test, two-sided.

    `difference` is the mean over `n` pairs of the model minus the host, `low` and `high` its 95 % interval (NaN where
    none was asked for); `p_holm` is corrected over the models of the party (for this label and measure). `remark` says
    when no result could have been significant.
    """

    model: str
    party: str
    label: str
    measure: str
    n: int
    difference: float
    p: float
    p_holm: float
    remark: str = ""
    low: float = math.nan
    high: float = math.nan

    @property
    def significant(self) -> bool:
        return self.p_holm < ALPHA  # False for NaN


def interval(values: Sequence[float], seed: int, resamples: int) -> tuple[float, float]:
    """95 % interval of the mean by the bias-corrected and accelerated bootstrap over cases (`scipy.stats.bootstrap`).

    Values that are all the same have no spread to resample: the interval is that value. NaN below two values.
    """
    from scipy.stats import bootstrap

    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return math.nan, math.nan
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    for method in ("BCa", "percentile"):  # the former has no answer where hardly any two values differ
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = bootstrap((values,), np.mean, n_resamples=resamples, batch=1000, confidence_level=LEVEL,
                              method=method, rng=np.random.default_rng(seed)).confidence_interval
        if np.isfinite(found).all():
            break
    return float(found.low), float(found.high)


def summarise(values: Sequence[float], empty: Sequence[str], seed: int, resamples: int, **keys: str) -> Summary:
    """Of one model's cases; NaN values are left out. `keys`: model, party, label, measure."""
    values = np.asarray(values, dtype=float)
    there = values[np.isfinite(values)]
    low, high = interval(there, seed, resamples)
    return Summary(**keys, n=len(there), mean=float(there.mean()) if len(there) else math.nan, low=low, high=high,
                   cases=len(values), one_sided=sum(e in ("reference", "prediction") for e in empty))


def compare_with_host(host: Sequence[float], models: Mapping[str, Sequence[float]], *, seed: int = 12345,
                      resamples: int = 0, **keys: str) -> list[PairedTest]:
    """Test every model against the host on the same cases, and correct over the models.

    Args:
        host: one value per case; NaN where it is not defined.
        models: name -> values of the same cases in the same order.
        seed, resamples: of the bootstrap for the intervals of differences; 0 for none.
        keys: party, label, measure.
    """
    host = np.asarray(host, dtype=float)
    pairs = {name: _pairs(np.asarray(values, dtype=float) - host) for name, values in models.items()}
    p = {name: _wilcoxon(d) for name, d in pairs.items()}
    corrected = holm(list(p.values()))
    intervals = {name: interval(d, seed, resamples) if resamples else (math.nan, math.nan)
                 for name, d in pairs.items()}
    return [PairedTest(model=name, **keys, n=len(d), difference=float(d.mean()) if len(d) else math.nan, p=p[name],
                       p_holm=c, remark=too_few(len(d), sum(np.isfinite(list(p.values())))), low=intervals[name][0],
                       high=intervals[name][1])
            for (name, d), c in zip(pairs.items(), corrected)]


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction (Scand J Stat 6:65, 1979), in the given order; NaN are no hypotheses and stay NaN."""
    p = np.asarray(p, dtype=float)
    order = [i for i in np.argsort(p, kind="stable") if np.isfinite(p[i])]
    corrected, highest = np.full(len(p), math.nan), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p[i]))
        corrected[i] = highest
    return [float(v) for v in corrected]


def too_few(n: int, models: int) -> str:
    """What to say where `n` pairs can never give a corrected p below 0.05 with so many models; empty where they can."""
    if n < SMALLEST_N:
        return f"{n} cases: too few for p < {ALPHA}, whatever the values (6 are the fewest)"
    smallest = min(1.0, 2.0 ** (1 - n) * max(1, models))
    if smallest >= ALPHA:
        return f"{n} cases: too few for p < {ALPHA} after correction over {models} models, whatever the values"
    return ""


def _pairs(differences: np.ndarray) -> np.ndarray:
    return differences[np.isfinite(differences)]


def _wilcoxon(differences: np.ndarray) -> float:
    """Exact for up to 50 pairs without ties or zeros; all permutations up to 13 pairs, the normal approximation beyond
    (`scipy.stats.wilcoxon`). Pairs without a difference are left out; if none is left, p is 1."""
    from scipy.stats import wilcoxon

    # Differences of equal values may be off by rounding, which is not to be ranked.
    differences = np.round(differences, 12)
    if not len(differences):
        return math.nan
    differences = differences[differences != 0]
    return float(wilcoxon(differences).pvalue) if len(differences) else 1.0


def to_json(row: Any) -> dict:
    """A dataclass of plain values as JSON; NaN becomes null, which every JSON reader knows."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in vars(row).items()}


def from_json(kind: type, value: Mapping) -> Any:
    """Undo `to_json`: null becomes NaN."""
    return kind(**{k: math.nan if v is None else v for k, v in value.items()})
