"""The training curve of a federated training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nnunetv2_stitch.evaluation.figures.style import SERIES, new_figure, own_style, tidy, write


@own_style
def training_curve(history: Sequence[Mapping[str, Any]], path: str) -> str:
    """Each party's mean training loss in each round, on its own cases, and their mean weighted by cases.

    Args:
        history: `round`, `losses` and `cases` of each round, as in `State.history`.
        path: PNG to write.

    Returns:
        `path`.
    """
    rounds = [entry["round"] for entry in history]
    means = [{name: sum(values) / len(values) for name, values in entry["losses"].items()} for entry in history]
    figure = new_figure(7.0, 4.0)
    axes = figure.add_subplot()
    for name, colour in zip(means[0] if means else [], SERIES * len(history)):
        axes.plot(rounds, [m[name] for m in means], marker="o", markersize=3, color=colour, label=name)
    weighted = [sum(mean[n] * entry["cases"][n] for n in mean) / sum(entry["cases"].values())
                for mean, entry in zip(means, history)]
    axes.plot(rounds, weighted, color="black", linewidth=1.5, linestyle="--", label="all, by cases")
    axes.set_xlabel("round")
    axes.set_ylabel("training loss (Dice and cross-entropy)")
    axes.set_title("Federated averaging: loss of the local epochs")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False)
    tidy(axes)
    return write(figure, path)
