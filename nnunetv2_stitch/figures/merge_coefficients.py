"""Merging coefficients along the network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnunetv2_stitch.figures.style import GREY, SERIES, new_figure, own_style, tidy, write

MAX_TICKS = 30  # with a coefficient per tensor there are hundreds of groups


@own_style
def merge_coefficients(record: Mapping[str, Any], path: str) -> str:
    """A line per member over the groups of tensors, from the input to the heads; dashed, where the search began.

    Args:
        record: contents of merge.json: `groups`, `coefficients` and `start` by member, `chosen`.
        path: PNG to write.
    """
    groups = record["groups"]
    figure = new_figure(min(14.0, 4.5 + 0.55 * min(len(groups), MAX_TICKS)), 4.2)
    axes = figure.add_subplot()
    for number, (label, values) in enumerate(record["coefficients"].items()):
        colour = SERIES[number % len(SERIES)]
        axes.plot(range(len(groups)), values, color=colour, marker="os^Dv"[number % 5], markersize=5, label=label)
        axes.axhline(record["start"][label], color=colour, linewidth=1.0, linestyle=(0, (4, 3)), alpha=0.6)
    axes.axhline(0.0, color=GREY, linewidth=1.0)
    if len(groups) <= MAX_TICKS:
        axes.set_xticks(range(len(groups)), groups, rotation=40, ha="right", fontsize=8)
    else:
        axes.set_xlabel("tensor, from the input to the heads")
    axes.set_ylabel("coefficient")
    axes.set_title(f"Coefficients found (dashed: where the search began). Written: {record['chosen']}", fontsize=10)
    tidy(axes)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return write(figure, path)
