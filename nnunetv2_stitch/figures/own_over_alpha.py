"""Own Dice along the line of weights from a partner to the partner trained on with the host's images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nnunetv2_stitch.figures.style import BLUE, GREEN, GREY, VERMILLION, new_figure, own_style, tidy, write


@own_style
def own_over_alpha(record: Mapping[str, Any], path: str) -> str:
    """Mean Dice over alpha with the standard error of the paired difference to the best point, a thin line per fold,
    the host's own model as a line, and the choice.

    Args:
        record: contents of adapt.json: `alphas`, `mean`, `standard_errors`, `best`, `alpha`, `folds`, `host_alone`.
        path: PNG to write.
    """
    alphas, mean, errors = (np.array(record[k], dtype=float) for k in ("alphas", "mean", "standard_errors"))
    figure = new_figure(8.6, 4.4)
    axes = figure.add_subplot()
    if len(record["folds"]) > 1:
        for number, (fold, told) in enumerate(record["folds"].items()):
            axes.plot(alphas, np.array(told["mean"], dtype=float), color=GREEN, alpha=0.4, linewidth=1.0,
                      linestyle=("-", "--", ":", "-.")[number % 4], label=f"fold {fold}")
    axes.errorbar(alphas, mean, np.nan_to_num(errors), color=GREEN, linewidth=2.0, marker="o", markersize=4, capsize=3,
                  label="all cases, with the standard error\nof the difference to the best")
    alone = record["host_alone"]["mean"]
    if alone is not None:
        axes.axhline(alone, color=BLUE, linewidth=1.4, label=f"A alone ({alone:.3f})")
    for end in (0, 1):
        axes.axvline(end, color=GREY, linewidth=0.8, linestyle=":", zorder=1)
    chosen = list(record["alphas"]).index(record["alpha"])
    axes.scatter([alphas[chosen]], [mean[chosen]], s=110, facecolors="none", edgecolors=VERMILLION, linewidths=1.8,
                 zorder=4, label=f"chosen: alpha {alphas[chosen]:g} ({mean[chosen]:.3f})")
    axes.set_xlabel("alpha: 0 is the partner, 1 the partner trained on with A's images")
    axes.set_ylabel("mean Dice on A's validation cases")
    tidy(axes)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return write(figure, path)
