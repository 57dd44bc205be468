"""Means of all models on all parties, a cell for each label: the whole comparison at one glance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nnunetv2_stitch.figures.style import new_figure, own_style, write

if TYPE_CHECKING:
    from nnunetv2_stitch.evaluation.comparison import Comparison
    from nnunetv2_stitch.evaluation.metrics import Measure

BETTER, WORSE = "▲", "▼"
CELL, ROW = 0.72, 0.27  # inches


@own_style
def heat_map(comparison: Comparison, measure: Measure, path: str) -> str:
    """Draw a row per model and, for each party apart, a column per label; cells hold the mean over cases.

    A triangle says that the model is better or worse than the host alone, p < 0.05 after correction. The colour scale
    is shared by all parties and ends at the fifth percentile of the worse side, lest one failed model hide the rest.
    """
    import matplotlib
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    models, parties, labels = comparison.model_names, comparison.parties, comparison.labels.rows
    labels = (labels[-1], *labels[:-1])  # the mean first
    means = {p: np.array([[comparison.summary(m, p, x, measure.key).mean for x in labels] for m in models])
             for p in parties}
    known = np.concatenate([v[np.isfinite(v)] for v in means.values()])
    if not len(known):
        known = np.zeros(1)
    low, high = (np.percentile(known, 5), known.max()) if measure.higher_is_better else \
        (known.min(), np.percentile(known, 95))
    scale = Normalize(low, high if high > low else low + 1e-6, clip=True)
    colours = LinearSegmentedColormap.from_list("", matplotlib.colormaps["YlGnBu"](np.linspace(0, 0.8)))
    colours = colours if measure.higher_is_better else colours.reversed()

    legend = _legend(comparison, measure)
    margin = 0.4 + 0.068 * max(len(comparison.shown(m)) for m in models)
    width = max(margin + CELL * len(labels) * len(parties) + 0.25 * len(parties), 4.6)
    figure = new_figure(width, ROW * len(models) + 1.0 + 0.045 * max(map(len, labels)) + 0.17 * len(legend))
    grid = figure.subplots(1, len(parties), sharey=True, squeeze=False)[0]
    for axes, party in zip(grid, parties):
        axes.imshow(np.nan_to_num(means[party], nan=low), cmap=colours, norm=scale, aspect="auto")
        for row, model in enumerate(models):
            for column, label in enumerate(labels):
                _cell(axes, row, column, comparison, model, party, label, measure, colours, scale)
        axes.set_xticks(range(len(labels)), labels, rotation=35, ha="right", rotation_mode="anchor", fontsize=8)
        axes.set_xticks(np.arange(1, len(labels)) - 0.5, minor=True)
        axes.set_yticks(range(len(models)), [comparison.shown(m) for m in models], fontsize=8)
        axes.set_yticks(np.arange(1, len(models)) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=1.2)
        axes.tick_params(length=0, which="both")
        axes.spines[:].set_visible(False)
        cases = comparison.summary(models[0], party, labels[0], measure.key).cases
        axes.set_title(f"{party}\n{comparison.whose(party)}, n = {cases}", fontsize=9)
    grid[0].get_yticklabels()[models.index(comparison.host)].set_fontweight("bold")
    figure.supxlabel("\n".join(legend), fontsize=7.5, x=0.01, ha="left")
    return write(figure, path)


def _cell(axes, row: int, column: int, comparison: Comparison, model: str, party: str, label: str, measure: Measure,
          colours, scale) -> None:
    mean = comparison.summary(model, party, label, measure.key).mean
    if not np.isfinite(mean):
        axes.add_patch(_blank(column, row))
        axes.text(column, row, "–", ha="center", va="center", fontsize=8, color="0.3")
        return
    dark = np.dot(colours(scale(mean))[:3], (0.3, 0.59, 0.11)) < 0.55
    axes.text(column, row, f"{mean:.{measure.digits}f}{verdict(comparison, model, party, label, measure)}", ha="center",
              va="center", fontsize=8, color="white" if dark else "black")


def _blank(column: int, row: int):
    from matplotlib.patches import Rectangle
    return Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor="0.93", edgecolor="none")


def verdict(comparison: Comparison, model: str, party: str, label: str, measure: Measure) -> str:
    """A triangle where a model differs from the host alone after correction, else nothing.

    Args:
        model, party, label: by their names in the comparison.
    """
    test = comparison.test(model, party, label, measure.key)
    if test is None or not test.significant or not test.difference:
        return ""
    return BETTER if (test.difference > 0) == measure.higher_is_better else WORSE


def _legend(comparison: Comparison, measure: Measure) -> list[str]:
    better = "higher" if measure.higher_is_better else "lower"
    return [f"{measure.heading}, mean over cases; {better} is better",
            f"{BETTER} better, {WORSE} worse than {comparison.host} (bold): Wilcoxon, Holm, p < 0.05",
            *comparison.legend]
