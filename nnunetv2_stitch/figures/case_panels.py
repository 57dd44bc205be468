"""The panels of cases one by one, for pages that lay them out as wide as the window is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO

from nnunetv2_stitch.figures.case_view import (
    OUTLINE,
    Panel,
    Row,
    bare,
    draw_panel,
    heat_colours,
    height_of,
    legend_of,
    shows_heat,
)
from nnunetv2_stitch.figures.style import new_figure, own_style

WIDTH = 1.9  # inches
STEPS = 9  # colours along the scale of heat


@dataclass(frozen=True)
class Picture:
    """One panel as a PNG, without any text in it."""

    title: str
    note: str
    png: bytes


@dataclass(frozen=True)
class CasePanels:
    """Rows of pictures, `(title, pictures)`, with what their colours mean: `labels`, name -> colour; `outline`, what
    the white outline is, empty where there is none; `heat`, the colours of 0 to 100 percent, empty without heat."""

    rows: tuple[tuple[str, tuple[Picture, ...]], ...]
    labels: Mapping[str, str]
    outline: str = ""
    heat: tuple[str, ...] = ()


@own_style
def case_panels(rows: Sequence[Row], labels: Mapping[str, int]) -> CasePanels:
    """The panels of `case_view`. `labels`: name -> value of the foreground labels, in nnU-Net's order."""
    drawn = tuple((row.title, tuple(Picture(p.title, p.note, _png(p, row, labels)) for p in row.panels))
                  for row in rows)
    outlined = any(row.reference is not None for row in rows)
    return CasePanels(drawn, legend_of(rows, labels), OUTLINE if outlined else "",
                      _scale() if shows_heat(rows) else ())


def _png(panel: Panel, row: Row, labels: Mapping[str, int]) -> bytes:
    figure, file = new_figure(WIDTH, WIDTH * height_of(row)), BytesIO()
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    bare(axes)
    draw_panel(axes, panel, row, labels)
    figure.savefig(file, format="png", transparent=True)
    return file.getvalue()


def _scale() -> tuple[str, ...]:
    colours = heat_colours()
    return tuple("rgba({:.0f}, {:.0f}, {:.0f}, {:.2f})".format(*(255 * c for c in rgb), alpha)
                 for *rgb, alpha in (colours(i / (STEPS - 1)) for i in range(STEPS)))
