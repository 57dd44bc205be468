"""The host's cases against a partner's, a point per position: what each stitch is worth to whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nnunetv2_stitch.figures.style import (
    GREEN,
    GREY,
    MODEL_COLOURS,
    MODEL_MARKERS,
    VERMILLION,
    new_figure,
    own_style,
    stairs,
    tidy,
    write,
)

PANEL = 4.4  # inches
CLOSE_UP = 0.5  # a second panel shows the positions alone if they span at most this share of the first, in either axis
REFERENCES = (("host", "host alone", "A alone"), ("partner", "partner alone", "B alone"),
              ("ensemble", "plain ensemble", "plain ensemble"))


@own_style
def positions_plane(front: Mapping[str, Any], chosen: int, path: str, preference: str | None = None,
                    adapted: bool = False) -> str:
    """Draw Dice on the host's cases (across) and on a partner's (up), a row of panels per partner.

    The front is of all parties together. With one partner it is joined by stairs; with several, a panel shows two of
    more than two objectives, where a joined front would mislead.

    Args:
        front: as `selection.pareto.Front.to_json` gives: `positions`, `names`, `on_front` and `parties`, host first,
            each with `party`, `values` by position, and `host`, `partner`, `ensemble` as references.
        chosen: the position that is deployed.
        path: PNG to write.
        preference: what `chosen` was chosen for, for the title.
        adapted: the partner was trained on with the host's images.
    """
    host, *partners = front["parties"]
    on_front = np.array(front["on_front"], dtype=bool)
    clouds = [np.array([host["values"], p["values"]], dtype=float).T for p in partners]
    marks = [np.array([[host[k], p[k]] for k, *_ in REFERENCES], dtype=float) for p in partners]
    close = any(_small(c, m) for c, m in zip(clouds, marks))
    index = front["positions"].index(chosen)
    figure = new_figure(PANEL * (2 if close else 1) + 1.9, 0.95 * PANEL * len(partners) + 0.3)
    grid = figure.subplots(len(partners), 2 if close else 1, squeeze=False)
    for row, partner, cloud, references in zip(grid, partners, clouds, marks):
        for number, axes in enumerate(row):
            _draw(axes, cloud, on_front, references, index, joined=len(partners) == 1)
            for limits, values in ((axes.set_xlim, 0), (axes.set_ylim, 1)):
                shown = cloud if number else np.concatenate([cloud, references])
                limits(*_limits(shown[:, values]))
            axes.set_xlabel("Dice on the host's cases")
            tidy(axes)
            axes.grid(axis="x", color="0.9", linewidth=0.8)
        name = partner["party"]
        row[0].set_ylabel("Dice on the partner's cases" if name == "partner" else f"Dice on the cases of {name}")
    if close:
        grid[0][1].set_title("close-up of the positions", fontsize=9)
        grid[0][0].set_title("with the untouched models", fontsize=9)
    for row, cloud in zip(grid, clouds):
        _number(row[-1], cloud, on_front, front["positions"], index)
    how = "" if preference is None else f" (-prefer {preference})"
    figure.suptitle(f"chosen: position {chosen}{how}\n{front['names'][index]}", fontsize=9, color=VERMILLION)
    figure.legend(handles=_handles(len(partners) == 1, adapted), loc="outside right upper", frameon=False, fontsize=8)
    return write(figure, path)


def _small(cloud: np.ndarray, references: np.ndarray) -> bool:
    """Whether the positions would be a blot between the references."""
    spans = np.ptp(np.concatenate([cloud, references]), axis=0)
    return bool((np.ptp(cloud, axis=0) <= CLOSE_UP * spans).any())


def _limits(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    pad = max(0.08 * (high - low), 0.004)
    return low - pad, high + pad


def _draw(axes, cloud: np.ndarray, on_front: np.ndarray, references: np.ndarray, chosen: int, joined: bool) -> None:
    axes.scatter(*cloud[~on_front].T, s=16, color=GREY, alpha=0.7, linewidths=0, zorder=3)
    axes.scatter(*cloud[on_front].T, s=26, color=GREEN, linewidths=0, zorder=4)
    if joined:
        stairs(axes, map(tuple, cloud[on_front].tolist()), color=GREEN, linewidth=1.5, zorder=2)
    for (_, _, style), point in zip(REFERENCES, references):
        axes.scatter(*point, s=52, color=MODEL_COLOURS[style], marker=MODEL_MARKERS[style], edgecolors="black",
                     linewidths=0.8, zorder=5)
    axes.scatter(*cloud[chosen], s=110, facecolors="none", edgecolors=VERMILLION, linewidths=1.8, zorder=6)


def _number(axes, cloud: np.ndarray, on_front: np.ndarray, positions: Sequence[int], chosen: int) -> None:
    """Write the numbers of the front's positions beside them, the chosen one first, where there is room."""
    axes.figure.canvas.draw()  # settles the layout, and so where points are in pixels
    scale = axes.figure.dpi / 72
    at = axes.transData.transform(cloud)
    taken: list[np.ndarray] = []
    for i in sorted(np.flatnonzero(on_front), key=lambda i: i != chosen):
        label = at[i] + np.array([9, 8]) * scale
        if all(np.hypot(*(label - t)) >= 12 * scale for t in taken):
            taken.append(label)
            axes.annotate(str(positions[i]), cloud[i], (9, 8), textcoords="offset points", ha="center", va="center",
                          fontsize=8, zorder=7, color=VERMILLION if i == chosen else "0.2")


def _handles(joined: bool, adapted: bool) -> list:
    from matplotlib.lines import Line2D
    dot = {"linestyle": "none", "marker": "o"}
    handles = [
        Line2D([], [], color=VERMILLION, markerfacecolor="none", markersize=10, markeredgewidth=1.8, label="chosen",
               **dot),
        Line2D([], [], color=GREEN, markersize=5, label="position on the front", **dot),
        Line2D([], [], color=GREY, markersize=4, label="other position", **dot)]
    if joined:
        handles.append(Line2D([], [], color=GREEN, linewidth=1.5, label="Pareto front"))
    return handles + [Line2D([], [], linestyle="none", marker=MODEL_MARKERS[style], color=MODEL_COLOURS[style],
                             markeredgecolor="black", markersize=7,
                             label=label.replace("partner", "adapted partner") if adapted else label)
                      for _, label, style in REFERENCES]
