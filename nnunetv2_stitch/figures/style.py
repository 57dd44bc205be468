"""What all figures share: colours that colour-blind readers can tell apart, and how a figure is made and written."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from nnunetv2_stitch.fileio import atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette
BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, YELLOW, GREY = "#CC79A7", "#56B4E9", "#F0E442", "#7F7F7F"
MODEL_COLOURS = {"A alone": BLUE, "B alone": ORANGE, "plain ensemble": GREY, "stitched": GREEN,
                 "recommended": VERMILLION}
MODEL_MARKERS = {"A alone": "o", "B alone": "s", "plain ensemble": "D", "stitched": "^",
                 "recommended": "*"}
SERIES = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION, YELLOW)
DPI = 120

P, R = ParamSpec("P"), TypeVar("R")


def own_style(draw: Callable[P, R]) -> Callable[P, R]:
    """Draw in matplotlib's default style, whatever is set. nnU-Net's logger sets seaborn's for the whole process, with
    fonts of two and a half times the size. Dollar signs in names of cases and labels begin no formula."""
    @wraps(draw)
    def in_default_style(*args: P.args, **kwargs: P.kwargs) -> R:
        import matplotlib.style
        with matplotlib.style.context(["default", {"text.parse_math": False}]):
            return draw(*args, **kwargs)
    return in_default_style


def new_figure(width: float, height: float) -> Figure:
    """A figure in inches, bound to no window and to no global state (`pyplot` keeps every figure it makes)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Axes) -> None:
    """Only the lines that help reading."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)


def stairs(axes: Axes, front: Iterable[tuple[float, float]], **line: Any) -> None:
    """The border of what points `(x, y)` dominate: from each down and to the left. `line`: its looks."""
    corners = sorted(set(front))
    if not corners:
        return
    x, y = [-1.0], [corners[0][1]]
    for i, (px, py) in enumerate(corners):
        x += [px, px]
        y += [py, corners[i + 1][1] if i + 1 < len(corners) else -1.0]
    axes.plot(x, y, scalex=False, scaley=False, **line)


def write(figure: Figure, path: str) -> str:
    """Write the figure as PNG, whole or not at all, and return `path`."""
    atomically(path, lambda temporary: figure.savefig(temporary, format="png"))
    return path
