"""Every case under every model: a line per case, so that it is seen whether a mean stands for all or for a few."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nnunetv2_stitch.figures.style import BLUE, VERMILLION, new_figure, own_style, tidy, write

if TYPE_CHECKING:
    from nnunetv2_stitch.evaluation.comparison import Comparison
    from nnunetv2_stitch.evaluation.metrics import Measure

WORST = 3  # cases that are named
MANY = 8  # models; with fewer, all of the scale is shown


@own_style
def case_lines(comparison: Comparison, party: str, measure: Measure, path: str) -> str:
    """Draw a thin line per case of one party over the models, and mean and 95 % interval of each model.

    The cases with the worst median over models are drawn in colour and named, the same ones as in the overlays. Of many
    models, those that are far worse than most lie outside of the scale, their means written at its end.
    """
    models, label = comparison.model_names, comparison.labels.main
    by_case = comparison.case_values(party, measure)
    worst = comparison.worst_cases(party, WORST)
    names = 0.04 * max(len(comparison.shown(m)) for m in models)
    figure = new_figure(max(6.0, 2.2 + 0.42 * len(models)), 4.4 + names + 0.16 * len(comparison.legend))
    axes = figure.add_subplot()
    at = np.arange(len(models))
    for case, values in by_case.items():
        named = case in worst
        dashes = ("-", "--", ":")[worst.index(case) % 3] if named else "-"
        axes.plot(at, values, color=VERMILLION if named else "0.55", linewidth=1.2 if named else 0.7, linestyle=dashes,
                  alpha=0.9 if named else max(0.15, min(0.6, 12 / len(by_case))), zorder=3 if named else 2,
                  label=case if named else None, marker=".", markersize=3)
    summaries = [comparison.summary(m, party, label, measure.key) for m in models]
    for x, s in zip(at, summaries):
        colour = BLUE if s.model == comparison.host else "black"
        axes.plot([x, x], [s.low, s.high], color=colour, linewidth=2.0, zorder=4)
        axes.scatter([x], [s.mean], s=34, color=colour, zorder=5,
                     label="mean and 95 % interval" if s is summaries[-1] else None)
    _leave_out_failures(axes, [s.mean for s in summaries], list(by_case.values()), measure)
    axes.set_xticks(at, [comparison.shown(m) for m in models], rotation=40, ha="right", rotation_mode="anchor",
                    fontsize=8)
    axes.get_xticklabels()[models.index(comparison.host)].set_color(BLUE)
    axes.set_xlim(-0.4, len(models) - 0.6)
    axes.set_ylabel(f"{measure.heading}, {label}")
    axes.set_title(f"{party}, {comparison.whose(party)}: a line per case (n = {len(by_case)})", fontsize=10)
    tidy(axes)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    if comparison.legend:
        axes.set_xlabel("\n".join(comparison.legend), fontsize=7.5, loc="left")
    return write(figure, path)


def _leave_out_failures(axes, means: Sequence[float], cases: Sequence[Sequence[float]], measure: Measure) -> None:
    """End the scale before models that are far worse than most, whose means are then written at its end: one failed
    model would squeeze all others into a line."""
    sign = 1 if measure.higher_is_better else -1
    goodness, values = sign * np.array(means), sign * np.array(cases, dtype=float)
    known = goodness[np.isfinite(goodness)]
    if len(known) < MANY:
        return
    least = known.max() - 4 * (known.max() - np.percentile(known, 25))
    left = np.flatnonzero(goodness < least)
    if not len(left):
        return
    kept = values[:, goodness >= least]
    low, high = np.nanmin(kept), np.nanmax(kept)
    end = sign * (low - 0.06 * (high - low))
    axes.set_ylim(**{"bottom" if sign > 0 else "top": end})
    for x in left:
        axes.annotate(f"{means[x]:.{measure.digits}f} {'↓' if sign > 0 else '↑'}", (x, end), (0, 3 * sign),
                      textcoords="offset points", fontsize=7.5, ha="center", va="bottom" if sign > 0 else "top",
                      rotation=90, zorder=6, bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5})
