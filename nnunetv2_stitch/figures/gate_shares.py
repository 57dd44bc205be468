"""How careful a gate is: the host's share of its own validation cases, and their Dice, from careful to careless."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nnunetv2_stitch.figures.style import BLUE, GREEN, GREY, ORANGE, new_figure, own_style, tidy, write


@own_style
def gate_shares(record: Mapping, path: str) -> str:
    """Two panels over the tried gates, from careful to careless: a dot per case and their mean; and Dice between A
    alone and even shares, the chosen gate marked.

    Args:
        record: of `pipeline.gating.FoundGate`.
        path: PNG to write.
    """
    points = record["path"]
    places, names = np.arange(len(points)), [
        f"+{100 * p['lead']:.0f}" if p["lead"] else f"{100 * p['quantile']:.0f}" for p in points]
    figure = new_figure(9.5, 4.2)
    shares, dice = figure.subplots(1, 2)
    values = np.array(record["host_shares"])  # (points, cases)
    for place, cases in zip(places, values):
        shares.plot(np.full(len(cases), place), cases, linestyle="none", marker="o", markersize=3, color=BLUE,
                    alpha=0.35)
    shares.plot(places, values.mean(1), color=BLUE, linewidth=1.6, label="mean of A's validation cases")
    even = 1 / (1 + len(record["partners_known"]))
    shares.axhline(even, color=GREY, linewidth=1.0, linestyle=(0, (4, 3)), label="even share")
    shares.set_ylim(min(even, values.min()) - 0.03, 1.03)
    shares.set_ylabel("A's share of the answer")
    dice.plot(places, record["dice"], color=GREEN, linewidth=1.6, marker="o", markersize=4, label="gated")
    dice.axhline(record["dice_host"], color=BLUE, linewidth=1.2, label="A alone")
    dice.axhline(record["dice_even"], color=GREY, linewidth=1.2, linestyle=(0, (4, 3)), label="even shares")
    dice.set_ylabel("Dice on A's validation cases")
    for axes in (shares, dice):
        if record["chosen"] is not None:
            axes.axvline(record["chosen"], color=ORANGE, linewidth=1.2, label="chosen")
        axes.set_xticks(places, names, fontsize=8)
        axes.set_xlabel("careful: threshold in %, then A's lead elsewhere in %")
        tidy(axes)
        axes.legend(frameon=False, fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    known = "and the partners'" if all(record["partners_known"]) else "alone (not all partners' are known)"
    figure.suptitle(f"Gate by A's signature {known}", fontsize=10)
    return write(figure, path)
