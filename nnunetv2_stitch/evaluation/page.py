"""Pages that open from a file: they ask nothing of any server and run no script, whatever a name in them contains."""

from __future__ import annotations

import base64
import os
import struct
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from nnunetv2_stitch.figures.case_panels import CasePanels, Picture
from nnunetv2_stitch.figures.style import DPI

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = os.path.join(os.path.dirname(__file__), "templates")
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Figure:
    """A figure file, what it shows in words for those who cannot see it, and the section of the page it belongs to.
    `panels` are shown in its place, as many beside each other as there is room for; then it needs no file."""

    path: str
    title: str
    alt: str
    section: str = ""
    panels: CasePanels | None = None


def render(template: str, **values: Any) -> str:
    """A page as HTML, from one of the `templates`. Every value is escaped; figures are put into it."""
    return _environment().get_template(template).render(policy=POLICY, **values)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    found = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined,
                        trim_blocks=True, lstrip_blocks=True)
    found.filters["picture"] = picture
    return found


def picture(figure: Figure | Picture) -> dict[str, Any]:
    """The file as a data URI, its size in pixels of the page, and the width below which its text is too small."""
    if isinstance(figure, Picture):
        data = figure.png
    else:
        with open(figure.path, "rb") as file:
            data = file.read()
    width, height = (round(side * 96 / DPI) for side in struct.unpack(">II", data[16:24]))  # of the PNG's header
    return {"source": f"data:image/png;base64,{base64.b64encode(data).decode()}", "width": width, "height": height,
            "least": min(width, max(320, round(width * 0.72)))}
