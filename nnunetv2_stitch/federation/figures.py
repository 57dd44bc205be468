"""How trainings in rounds went on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nnunetv2_stitch.figures.style import SERIES, new_figure, own_style, tidy, write


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


@own_style
def progress_curve(history: Sequence[Mapping[str, Any]], path: str) -> str:
    """The score of what was written in each round, and of each party's model that took part; models that were asked for
    in an earlier round are hollow.

    Args:
        history: entries of `GuidedMerging`.
        path: PNG to write.

    Returns:
        `path`.
    """
    merged = [e for e in history if e["merge"]]
    figure = new_figure(7.0, 4.0)
    axes = figure.add_subplot()
    axes.plot([e["round"] for e in merged], [e["merge"]["scores"][e["merge"]["chosen"]] for e in merged],
              color="black", linewidth=1.5, marker="o", markersize=3, zorder=3, label="written")
    parties = sorted({m["party"] for e in merged for m in e["models"]})
    for party, colour in zip(parties, SERIES * len(parties)):
        points = [(e["round"], e["merge"]["scores"][f"{party} alone"], m["age"])
                  for e in merged for m in e["models"] if m["party"] == party]
        for fresh, label in ((True, f"{party} alone"), (False, f"{party} alone, older")):
            chosen = [p for p in points if (p[2] == 0) == fresh]
            if chosen:
                axes.plot([p[0] for p in chosen], [p[1] for p in chosen], linestyle="none", marker="s", markersize=7,
                          color=colour, markerfacecolor=colour if fresh else "none", label=label)
    axes.set_xlabel("round")
    axes.set_ylabel(f"{merged[0]['merge']['scored_by'] if merged else 'score'} on the centre's validation cases")
    axes.set_title("Guided merging in rounds")
    axes.set_xlim(0.5, max((e["round"] for e in history), default=1) + 0.5)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False)
    tidy(axes)
    return write(figure, path)
