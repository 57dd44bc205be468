"""The rule of retention: along a path from the partner to the host, the first point that own data cannot tell from the
best, as a pure function on scores of single cases."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from nnunetv2_stitch.errors import StitchError

TOLERANCE = 1.0  # standard errors
ROUNDING = 1e-9  # differences of means below it are none


@dataclass(frozen=True)
class Retention:
    """A point of a path, and why. `index`: the point. `best`: the point of the highest mean. `standard_errors`: by
    point, of its mean paired difference to the best; NaN where no case tells both. `reason`: one sentence. `reached`:
    False where no point reaches the host alone."""

    index: int
    best: int
    standard_errors: tuple[float, ...]
    reason: str
    reached: bool = True


def require_tolerance(tolerance: float) -> None:
    """Raises StitchError unless it is a finite number, 0 or more."""
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise StitchError(f"-tolerance {tolerance} is not a number of standard errors, 0 or more")


def retained(scores: np.ndarray, reference: np.ndarray | None = None, tolerance: float = TOLERANCE,
             host_at_end: bool = True, near_best: bool = True) -> Retention:
    """The first point whose mean is within `tolerance` standard errors of the best point's, and of the reference's.

    The standard error is that of the mean paired difference over cases (ddof 1): the one-standard-error rule of
    cost-complexity pruning (Breiman, Friedman, Olshen and Stone, Classification and Regression Trees, 1984, section
    3.4.3), paired because all points are scored on the same cases. Of one case, or of differences that are all the
    same, it is zero, and then only points that are no worse qualify. Where no point reaches the reference the last one
    is taken, which is the host; on a path that does not end there, the best.

    Args:
        scores: `(points, cases)`, one score per case, from the point with most of the partner to the one with most of
            the host. NaN: the case says nothing; it is left out of each pair that it is missing in.
        reference: `(cases,)`, the host alone on the same cases; None where nobody knows.
        host_at_end: whether the last point is the host alone.
        near_best: False where being near the reference, which must be there, is enough.

    Raises:
        StitchError: no score, or no score of the reference, is a number; or `tolerance` is none.
    """
    require_tolerance(tolerance)
    scores = np.array(scores, dtype=float)
    if scores.ndim != 2 or (reference is not None and np.shape(reference) != scores.shape[1:]):
        raise ValueError(f"scores are (points, cases) and a reference is (cases,), not {scores.shape} and "
                         f"{None if reference is None else np.shape(reference)}")
    seen = np.isfinite(scores)
    if not seen.any():
        raise StitchError("no case has a score, so nothing can be chosen by retention; check the labels and the splits")
    known = np.flatnonzero(seen.any(1))
    best = int(max(known, key=lambda i: np.mean(scores[i, seen[i]])))
    from_best = [mean_and_error(scores[best] - row) for row in scores]
    within = [_is_within(d, tolerance) for d in from_best]
    within[best] = True
    near = f"within {tolerance:g} standard error{'' if tolerance == 1 else 's'}"
    reason = f"the first of {len(scores)} points {near} of the best"
    if reference is not None:
        reference = np.asarray(reference, dtype=float)
        if not np.isfinite(reference).any():
            raise StitchError("no case has a score of the host alone, so retention has nothing to compare with; check "
                              "the labels and the splits")
        kept = [_is_within(mean_and_error(reference - row), tolerance) for row in scores]
        within = [a and b for a, b in zip(within, kept)] if near_best else kept
        reason = f"the first of {len(scores)} points {near} of {'the best and of ' * near_best}the host alone" \
            if any(within) else \
            f"no point is {near} of the host alone{' and of the best' * near_best}, so " + (
                "the host's end is taken" if host_at_end else
                "the best is taken, though the host alone is better on own cases")
    index = within.index(True) if any(within) else int(known[-1]) if host_at_end else best
    return Retention(index, best, tuple(error for _, error in from_best), reason, any(within))


def is_as_good(scores: np.ndarray, reference: np.ndarray, tolerance: float = TOLERANCE) -> bool:
    """Whether scores of single cases, `(cases,)`, are at most `tolerance` standard errors below the reference's."""
    return _is_within(mean_and_error(np.subtract(reference, scores, dtype=float)), tolerance)


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Mean over the cases that have a value, and its standard error, 0 of one case; NaN of no case."""
    values = values[np.isfinite(values)]
    if not values.size:
        return math.nan, math.nan
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(values.size)) if values.size > 1 else 0.0


def _is_within(difference: tuple[float, float], tolerance: float) -> bool:
    mean, error = difference
    return bool(mean <= tolerance * error + ROUNDING)  # False of NaN
