"""Own cases against a partner's, with the Pareto front: who gains what, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nnunetv2_stitch.figures.style import BLUE, GREEN, GREY, new_figure, own_style, stairs, tidy, write

if TYPE_CHECKING:
    from nnunetv2_stitch.evaluation.comparison import Comparison
    from nnunetv2_stitch.evaluation.plane import Plane, PlanePoint

PANEL = 4.6  # inches
AREA = 34  # of a point, in square points; with a third axis from the first to the second of
AREAS = (16, 120)
CLOSE_UP = 0.6  # a second panel shows the better models if it needs at most this share of the first, in either axis


@own_style
def own_versus_partner(comparison: Comparison, plane: Plane, path: str) -> str:
    """Draw mean Dice on own cases (across) and on the partner's (up), a numbered point per model.

    Crosses are 95 % intervals. Filled points need nothing special, hollow ones carry a note. The stairs are the Pareto
    front, dashed the front without the models that carry a note. Dotted lines run through the host alone: to the right
    of and above them lies what is at least as good on both. Where the better models lie close together, a second panel
    shows them alone, without crosses. Where there are unseen hospitals, a point's area says the mean Dice on them.
    """
    models = comparison.model_names
    points = [p for p in plane.points if np.isfinite([p.x, p.y]).all()]
    close = _close_up(points)
    legend = [f"{models.index(p.model) + 1}  {comparison.shown(p.model)}" for p in plane.points]
    side = 0.5 + 0.07 * max(map(len, legend))
    notes = [*comparison.legend, _said(plane)]
    height = max(PANEL, 0.19 * (len(legend) + (11 if plane.unseen else 6)) + 0.4) + 0.17 * len(notes) + 0.3
    figure = new_figure(PANEL * (1 if close is None else 2) + side, height)
    panels = figure.subplots(1, 1 if close is None else 2, squeeze=False)[0]
    for axes, limits in zip(panels, (_limits(points, crosses=True), close)):
        whole = axes is panels[0]
        _draw(axes, plane, points, comparison, crosses=whole)
        axes.set_xlim(*limits[0])
        axes.set_ylim(*limits[1])
        if whole and close is not None:
            _frame(axes, close)
        # What the close-up numbers is not numbered twice.
        _number(axes, [p for p in points if not (whole and close is not None and _inside(p, close))], points, models,
                plane)
        axes.set_xlabel(f"Dice on own cases, {plane.own}")
        axes.locator_params(axis="x", nbins=6)
        tidy(axes)
        axes.grid(axis="x", color="0.9", linewidth=0.8)
    panels[0].set_ylabel(f"Dice on the partner's cases, {plane.partner}")
    panels[0].set_title("with 95 % intervals", fontsize=9)
    if close is not None:
        panels[1].set_title("close-up of the better models", fontsize=9)
    figure.legend(handles=_handles(plane, legend, bool(comparison.legend)), loc="outside right upper", frameon=False,
                  fontsize=8, handlelength=0.8, title=f"{plane.label}: mean over cases", title_fontsize=8)
    figure.supxlabel("\n".join(notes), fontsize=7.5, x=0.01, ha="left")
    return write(figure, path)


def _draw(axes, plane: Plane, points: Sequence[PlanePoint], comparison: Comparison, crosses: bool) -> None:
    noted = {m.name for m in comparison.models if m.note}
    for p in sorted(points, key=lambda p: p.model == comparison.host):  # the host on top
        colour = BLUE if p.model == comparison.host else GREEN if p.on_front else GREY
        if p.model == comparison.host:
            axes.axvline(p.x, color=BLUE, linewidth=0.9, linestyle=":", zorder=1)
            axes.axhline(p.y, color=BLUE, linewidth=0.9, linestyle=":", zorder=1)
        if crosses:
            axes.plot([p.x_low, p.x_high], [p.y, p.y], color=colour, linewidth=1.0, alpha=0.45, zorder=2)
            axes.plot([p.x, p.x], [p.y_low, p.y_high], color=colour, linewidth=1.0, alpha=0.45, zorder=2)
        axes.scatter([p.x], [p.y], s=_area(plane, p.z), zorder=4, facecolors="white" if p.model in noted else colour,
                     edgecolors=colour, linewidths=1.3)
    stairs(axes, ((p.x, p.y) for p in points if p.on_front), color=GREEN, linewidth=1.8, zorder=3)
    if _fronts_differ(points):
        stairs(axes, ((p.x, p.y) for p in points if p.on_unmarked_front), color="0.35", linewidth=1.8, linestyle="--",
               zorder=3)


def _third(plane: Plane) -> tuple[float, float] | None:
    """The smallest and the largest mean on unseen hospitals; None without any."""
    known = [p.z for p in plane.points if np.isfinite(p.z)]
    return (min(known), max(known)) if known else None


def _area(plane: Plane, z: float) -> float:
    """Of a point whose mean on unseen hospitals is `z`; the smallest where that is not known."""
    if (ends := _third(plane)) is None:
        return AREA
    share = (z - ends[0]) / (ends[1] - ends[0]) if np.isfinite(z) and ends[1] > ends[0] else 0.0
    return AREAS[0] + share * (AREAS[1] - AREAS[0])


def _fronts_differ(points: Sequence[PlanePoint]) -> bool:
    """Whether marked models change the front; one that equals another does not."""
    return {(p.x, p.y) for p in points if p.on_front} != {(p.x, p.y) for p in points if p.on_unmarked_front}


def _limits(points: Sequence[PlanePoint], crosses: bool) -> tuple[tuple[float, float], tuple[float, float]]:
    spans = []
    for axis in "xy":
        names = [axis, f"{axis}_low", f"{axis}_high"] if crosses else [axis]
        values = np.array([getattr(p, n) for p in points for n in names])
        values = values[np.isfinite(values)]
        low, high = (values.min(), values.max()) if len(values) else (0.0, 1.0)
        pad = max(0.08 * (high - low), 0.004)
        spans.append((float(low - pad), float(high + pad)))
    return spans[0], spans[1]


def _close_up(points: Sequence[PlanePoint]) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """Limits around the front, the host and all that is not far behind on either axis; None if that is nearly all."""
    if len(points) < 3:
        return None
    least = [np.percentile([getattr(p, axis) for p in points], 25) for axis in "xy"]
    better = [p for p in points if p.on_front or p.on_unmarked_front or (p.x >= least[0] and p.y >= least[1])]
    whole, part = _limits(points, crosses=True), _limits(better, crosses=False)
    shares = [(b[1] - b[0]) / (a[1] - a[0]) for a, b in zip(whole, part)]
    return part if max(shares) <= CLOSE_UP or min(shares) <= CLOSE_UP / 2 else None


def _inside(p: PlanePoint, limits: tuple[tuple[float, float], tuple[float, float]]) -> bool:
    return limits[0][0] <= p.x <= limits[0][1] and limits[1][0] <= p.y <= limits[1][1]


def _frame(axes, limits: tuple[tuple[float, float], tuple[float, float]]) -> None:
    from matplotlib.patches import Rectangle
    (left, right), (low, high) = limits
    axes.add_patch(Rectangle((left, low), right - left, high - low, facecolor="none", edgecolor="0.6", linewidth=0.8,
                             zorder=1))


def _number(axes, wanted: Sequence[PlanePoint], points: Sequence[PlanePoint], models: Sequence[str],
            plane: Plane) -> None:
    """Write each model's number beside its point, where it covers no other number and no point, as far as possible."""
    axes.figure.canvas.draw()  # settles the layout, and so where points are in pixels
    limits = axes.get_xlim(), axes.get_ylim()
    at = {p.model: axes.transData.transform((p.x, p.y)) for p in points if _inside(p, limits)}
    taken: list[np.ndarray] = list(at.values())
    scale = axes.figure.dpi / 72
    for p in (p for p in wanted if p.model in at):
        wider = np.sqrt(_area(plane, p.z) / np.pi) - np.sqrt(AREA / np.pi)
        offsets = [np.array([np.cos(a), np.sin(a)]) * (r + max(0.0, wider)) for r in (9, 14, 20, 27)
                   for a in np.arange(8) * np.pi / 4]
        clear = [min(float(np.hypot(*(at[p.model] + o * scale - t))) for t in taken if t is not at[p.model])
                 if len(taken) > 1 else np.inf for o in offsets]
        best = next((i for i, c in enumerate(clear) if c >= 11 * scale), int(np.argmax(clear)))
        taken.append(at[p.model] + offsets[best] * scale)
        far = np.hypot(*offsets[best]) > 10 + max(0.0, wider)
        axes.annotate(str(models.index(p.model) + 1), (p.x, p.y), offsets[best], textcoords="offset points",
                      ha="center", va="center", fontsize=8, zorder=5,
                      arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": "0.5"} if far else None)


def _handles(plane: Plane, legend: Sequence[str], noted: bool) -> list:
    from matplotlib.lines import Line2D
    handles = [Line2D([], [], linestyle="none", label=text) for text in legend]
    dot = {"linestyle": "none", "marker": "o", "markersize": 5}
    front = [Line2D([], [], color=colour, label=text, **dot)
             for colour, text in ((BLUE, "host alone"), (GREEN, "on the front"), (GREY, "others"))]
    if noted:
        front.append(Line2D([], [], color=GREY, markerfacecolor="white", label="hollow: marked", **dot))
    front.append(Line2D([], [], color=GREEN, linewidth=1.8, label="Pareto front"))
    if _fronts_differ(plane.points):
        front.append(Line2D([], [], color="0.35", linewidth=1.8, linestyle="--", label="front without marked models"))
    return [*handles, *front, *_sizes(plane)]


def _sizes(plane: Plane) -> list:
    """What the area of a point means: a line of words, and points at both ends and in the middle."""
    from matplotlib.lines import Line2D
    if (ends := _third(plane)) is None:
        return []
    where = plane.unseen[0] if len(plane.unseen) == 1 else f"{len(plane.unseen)} unseen hospitals, mean"
    values = dict.fromkeys((ends[0], sum(ends) / 2, ends[1]))
    return [Line2D([], [], linestyle="none", label=f"area: Dice on {where}"),
            *(Line2D([], [], color=GREY, linestyle="none", marker="o", markersize=np.sqrt(_area(plane, z)),
                     label=f"{z:.3f}") for z in values)]


def _said(plane: Plane) -> str:
    text = f"hypervolume from {plane.reference[0]:g}, {plane.reference[1]:g}: {plane.hypervolume:.4f}"
    if plane.unmarked_hypervolume != plane.hypervolume:
        text += f"; without marked models {plane.unmarked_hypervolume:.4f}"
    if plane.unseen:
        text += f"; with the unseen hospitals as third axis {plane.unseen_hypervolume:.4f}"
    return text
