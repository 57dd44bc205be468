"""Dice of masks, means over cases with their intervals, and the table of a study."""

from __future__ import annotations

import numpy as np


def dice_of(one: np.ndarray, other: np.ndarray) -> float:
    """Of two masks; NaN where neither has a polyp."""
    total = one.sum() + other.sum()
    return float(2 * (one & other).sum() / total) if total else np.nan


def interval(values: np.ndarray, rng: np.random.Generator, resamples: int = 9999) -> tuple[float, float, float]:
    """Mean over cases and its 95 % bootstrap interval."""
    values = values[np.isfinite(values)]
    means = values[rng.integers(0, len(values), (resamples, len(values)))].mean(1)
    return float(values.mean()), *map(float, np.quantile(means, (0.025, 0.975)))


def summary(dice: dict[str, dict[str, np.ndarray]]) -> dict:
    """By row: mean and interval on own, partner's and each unseen hospital; mean of the unseen ones with the interval
    of the stratified bootstrap; the same of paired differences to A alone."""
    rng, found = np.random.default_rng(12345), {}
    for name, by_set in dice.items():
        found[name] = {}
        for kind, values in (("dice", by_set), ("to A alone", {s: v - dice["A alone"][s] for s, v in by_set.items()})):
            rows = {s: interval(v, rng) for s, v in values.items()}
            unseen = [v[np.isfinite(v)] for s, v in values.items() if s.startswith("unseen")]
            means = np.mean([v[rng.integers(0, len(v), (9999, len(v)))].mean(1) for v in unseen], 0)
            rows["unseen"] = (float(np.mean([v.mean() for v in unseen])),
                              *map(float, np.quantile(means, (0.025, 0.975))))
            found[name][kind] = rows
    return found


def as_lists(dice: dict[str, dict[str, np.ndarray]]) -> dict:
    """Dice of single cases, in order of their names, for `report.py`."""
    return {row: {s: [round(float(x), 4) for x in v] for s, v in by_set.items()} for row, by_set in dice.items()}


def markdown(found: dict, notes: dict[str, str]) -> str:
    sets = [s for s in next(iter(found.values()))["dice"] if not s.startswith("unseen ")]
    lines = [f"| | {' | '.join(sets)} | {' | '.join(f'{s}, to A alone' for s in sets)} |",
             "|---" * (1 + 2 * len(sets)) + "|"]
    for name, kinds in found.items():
        cells = [f"{kinds['dice'][s][0]:.3f}" for s in sets]
        cells += [f"{m:+.3f} ({low:+.3f} to {high:+.3f})" for m, low, high in (kinds["to A alone"][s] for s in sets)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"- {k}: {v}" for k, v in notes.items())]) + "\n"
