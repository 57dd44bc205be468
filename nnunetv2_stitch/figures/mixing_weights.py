"""Mixing weights over the positions of a stitched ensemble."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nnunetv2_stitch.figures.style import BLUE, GREY, ORANGE, new_figure, own_style, tidy, write


@own_style
def mixing_weights(positions: Sequence[Sequence[int]], weights: Sequence[Sequence[tuple[float, float]]],
                   path: str) -> str:
    """What each parent takes of the other's translated map, at each position: a line for the mean over folds, dots for
    the folds.

    Args:
        positions: per fold.
        weights: per fold and position, `(host, partner)`.
        path: PNG to write.
    """
    figure = new_figure(9.5, 4.2)
    axes = figure.add_subplot()
    common = sorted(set(positions[0]).intersection(*positions[1:]))
    values = np.array([[w[list(p).index(k)] for k in common] for p, w in zip(positions, weights)])  # (folds, P, 2)
    for side, (name, colour) in enumerate((("partner's map in the host", BLUE), ("host's map in the partner", ORANGE))):
        axes.plot(common, values[:, :, side].mean(0), color=colour, linewidth=1.6, marker=".", label=name)
        if len(values) > 1:
            for fold in values[:, :, side]:
                axes.plot(common, fold, color=colour, linestyle="none", marker="o", markersize=2.5, alpha=0.5)
    for level, words in ((0.0, "own map alone"), (0.5, "average"), (1.0, "translated map alone")):
        axes.axhline(level, color=GREY, linewidth=1.0, linestyle=(0, (4, 3)), zorder=0)
        axes.annotate(words, (1.0, level), xycoords=("axes fraction", "data"), xytext=(4, 0),
                      textcoords="offset points", va="center", fontsize=8, color=GREY)
    axes.set_xlabel("position, from the input to the heads")
    axes.set_ylabel("weight of the translated map")
    of = "one fold" if len(values) == 1 else f"mean of {len(values)} folds, dots: single folds"
    axes.set_title(f"Mixing weights searched on the host's data ({of})", fontsize=10)
    tidy(axes)
    axes.legend(frameon=False, fontsize=8)
    return write(figure, path)
