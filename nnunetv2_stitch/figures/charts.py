"""Charts of Dice over models and over positions."""

from __future__ import annotations

import string
from collections.abc import Collection, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np

from nnunetv2_stitch.figures.style import (
    BLUE,
    GREY,
    MODEL_COLOURS,
    MODEL_MARKERS,
    ORANGE,
    PURPLE,
    SERIES,
    SKY,
    VERMILLION,
    new_figure,
    own_style,
    tidy,
    write,
)


@own_style
def dice_by_party(rows: Sequence[Mapping[str, Any]], path: str, title: str = "Dice on the test cases") -> str:
    """Dice of each model on each party's cases: a marker for the mean, a small dot for each case.

    Parties stand side by side and are never averaged: a mean over parties hides who gains and who loses.

    Args:
        rows: dicts with `model`, `party`, `dice` (mean) and, if known, `cases` (one Dice per case, NaN allowed).
        path: PNG to write.
        title: above the figure.
    """
    parties = list(dict.fromkeys(row["party"] for row in rows))
    models = list(dict.fromkeys(row["model"] for row in rows))
    figure = new_figure(1.8 + 2.9 * len(parties), 4.2)
    axes = figure.add_subplot()
    step = 0.8 / max(1, len(models))
    lowest = 1.0
    for number, model in enumerate(models):
        colour = MODEL_COLOURS.get(model, SERIES[number % len(SERIES)])
        label = model
        for row in rows:
            if row["model"] != model:
                continue
            x = parties.index(row["party"]) + (number - (len(models) - 1) / 2) * step
            cases = np.asarray(row.get("cases") or [], dtype=float)
            cases = cases[np.isfinite(cases)]
            # A fixed fan rather than random jitter: the same data give the same picture.
            fan = np.linspace(-0.22, 0.22, len(cases)) * step if len(cases) > 1 else np.zeros(len(cases))
            axes.scatter(x + fan, cases, s=9, color=colour, alpha=0.4, linewidths=0)
            axes.scatter([x], [row["dice"]], s=62, color=colour, marker=MODEL_MARKERS.get(model, "o"),
                         edgecolors="black", linewidths=0.8, zorder=3, label=label)
            axes.annotate(f"{row['dice']:.3f}", (x, 1.0), (0, 5), textcoords="offset points", ha="center", fontsize=8,
                          xycoords=("data", "axes fraction"), color="0.25")
            label = None  # one entry per model in the legend
            lowest = min([lowest, row["dice"], *cases])
    for edge in range(1, len(parties)):
        axes.axvline(edge - 0.5, color="0.85", linewidth=0.8)
    axes.set_xlim(-0.5, len(parties) - 0.5)
    axes.set_xticks(range(len(parties)), [str(party) for party in parties])
    axes.tick_params(axis="x", length=0)
    axes.set_ylim(max(0.0, np.floor(lowest * 10 - 0.3) / 10), 1.0)
    axes.set_ylabel("Dice (mean over labels)")
    axes.set_title(title + ": marker = mean, dots = cases", fontsize=10, pad=20)
    tidy(axes)
    figure.legend(loc="outside lower center", ncols=min(5, len(models)), frameon=False)
    return write(figure, path)


@own_style
def dice_over_position(sweeps: Sequence[Mapping[str, Any]], chosen: Sequence[int], path: str,
                       adapted: Collection[str] = ()) -> str:
    """Dice of the stitched ensemble over the position of the stitch, a line per fold and their mean; with several
    partners a line for each.

    Args:
        sweeps: per fold a dict with `fold`, `positions`, `names`, `ensemble`, `host_head`, `parties` and `baselines`
            (`host`, `partner`, ..., `ensemble`), as `selection.sweep.Sweep.to_json` gives.
        chosen: the selected positions; none marks nothing.
        path: PNG to write.
        adapted: partners that were trained on with the host's images.
    """
    common = sorted(set(sweeps[0]["positions"]).intersection(*(s["positions"] for s in sweeps[1:])))
    party = dict(zip(sweeps[0]["positions"], sweeps[0]["parties"]))
    partners = sorted(set(party.values()))
    figure = new_figure(9.5, 4.8)
    axes = figure.add_subplot()
    many = len(sweeps) > 1
    of = f"mean of {len(sweeps)} folds" if many else f"fold {sweeps[0]['fold']}"
    marked = []
    for partner, colour in zip(partners, cycle((MODEL_COLOURS["stitched"], SKY, PURPLE))):
        positions = [p for p in common if party[p] == partner]
        ensemble, host_head = (np.array([[s[key][s["positions"].index(p)] for p in positions] for s in sweeps],
                                        dtype=float) for key in ("ensemble", "host_head"))
        if many and len(partners) == 1:
            for number, (sweep, line) in enumerate(zip(sweeps, ensemble)):
                axes.plot(positions, line, color=colour, alpha=0.4, linewidth=1.0,
                          linestyle=("-", "--", ":", "-.")[number % 4], label=f"stitched, fold {sweep['fold']}")
        name = "stitched ensemble" if len(partners) == 1 else f"stitched with {partner}"
        axes.plot(positions, ensemble.mean(0), color=colour, linewidth=2.2, marker=".", label=f"{name}, {of}")
        if len(partners) == 1:
            axes.plot(positions, host_head.mean(0), color=PURPLE, linewidth=1.2, linestyle=(0, (4, 2)),
                      label=f"host's head alone, {of}")
        marked += [(p, float(ensemble.mean(0)[positions.index(p)])) for p in chosen if p in positions]
    _reference_lines(axes, sweeps, partners, adapted)
    for position, height in marked:
        axes.axvline(position, color=VERMILLION, linewidth=1.0, zorder=1)
        axes.scatter([position], [height], s=80, facecolors="none", edgecolors=VERMILLION, linewidths=1.8, zorder=4)
    names = dict(zip(sweeps[0]["positions"], sweeps[0]["names"]))
    axes.set_title("\n".join(f"chosen: position {p} ({names[p]}), {height:.3f}" for p, height in marked), fontsize=10,
                   color=VERMILLION)
    axes.set_xlabel("position of the stitch along the network")
    axes.set_ylabel("mean Dice on validation cases")
    axes.margins(x=0.02)
    tidy(axes)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return write(figure, path)


def _reference_lines(axes, sweeps: Sequence[Mapping[str, Any]], partners: Sequence[str],
                     adapted: Collection[str]) -> None:
    """What the untouched models do; dashes beside colours, for print in grey."""
    alone = [(p, f"{name} {'adapted ' * (p in adapted)}alone", ORANGE, dashes) for p, name, dashes in
             zip(partners, string.ascii_uppercase[1:], cycle(("-.", ":", (0, (6, 1, 1, 1)))))]
    for key, label, colour, dashes in (("host", "A alone", BLUE, "-"), *alone,
                                       ("ensemble", "plain ensemble", GREY, "--")):
        level = float(np.mean([s["baselines"][key] for s in sweeps]))
        axes.axhline(level, color=colour, linewidth=1.4, linestyle=dashes, label=f"{label} ({level:.3f})")
