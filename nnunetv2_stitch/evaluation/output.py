"""Everything that is written about a comparison: numbers, tables, figures, and one page that holds them all."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.evaluation.comparison import FILE, Comparison, save_comparison
from nnunetv2_stitch.evaluation.labels import Labels
from nnunetv2_stitch.evaluation.metrics import MEASURES
from nnunetv2_stitch.evaluation.page import Figure
from nnunetv2_stitch.evaluation.report import report
from nnunetv2_stitch.evaluation.rows import markdown, write_csv
from nnunetv2_stitch.evaluation.worst_cases import worst_panels
from nnunetv2_stitch.figures.case_lines import case_lines
from nnunetv2_stitch.figures.case_panels import case_panels
from nnunetv2_stitch.figures.heat_map import heat_map
from nnunetv2_stitch.figures.overlay_grid import overlay_rows, overlays
from nnunetv2_stitch.figures.own_versus_partner import own_versus_partner
from nnunetv2_stitch.fileio import write_text

CSV_FILE, MARKDOWN_FILE, REPORT_FILE, FIGURES = "comparison.csv", "comparison.md", "report.html", "figures"


def write_comparison(comparison: Comparison, folder: str, worst: int = 3,
                     say: Callable[[str], None] = lambda line: None) -> dict[str, str]:
    """Write `comparison.json`, `.csv`, `.md`, `figures/*.png` and `report.html` into a folder.

    Args:
        worst: how many of each party's worst cases are shown; 0 for none.
        say: is told each step in a line.

    Returns:
        `json`, `csv`, `markdown` and `report`, with their paths.

    Raises:
        StitchError: the folder cannot be written to.
    """
    def at(name: str) -> str:
        return os.path.join(folder, name)

    say("Drawing ...")
    figures, remarks = draw(comparison, at(FIGURES), worst)
    comparison = replace(comparison, remarks=(*comparison.remarks, *remarks))
    return {"json": save_comparison(comparison, at(FILE)), "csv": write_csv(comparison, at(CSV_FILE)),
            "markdown": write_text(at(MARKDOWN_FILE), markdown(comparison)),
            "report": write_text(at(REPORT_FILE), report(comparison, figures))}


def draw(comparison: Comparison, folder: str, worst: int = 3) -> tuple[list[Figure], list[str]]:
    """All figures of a comparison, and remarks on those that could not be drawn."""
    figures, remarks = [], []
    names = _Names()

    def add(section: str, title: str, alt: str, name: str, function: Callable, *arguments) -> None:
        path = os.path.join(folder, names.file(name))
        figures.append(Figure(function(*arguments, path), title, alt, section))

    for p in comparison.planes:
        add("plane", f"{p.own} against {p.partner}",
            f"Scatter plot of mean Dice on {p.own} (across) and on {p.partner} (up), a point per model with 95 % "
            f"intervals{', larger where the mean over unseen hospitals is' if p.unseen else ''}. On the Pareto "
            f"front: {', '.join(p.front) or 'none'}.", f"own_versus_{p.partner}",
            own_versus_partner, comparison, p)
    for measure in MEASURES:
        add(f"heat map {measure.key}", measure.heading,
            f"Heat map of mean {measure.heading}: a row for each of {len(comparison.models)} models, columns for each "
            f"label of {', '.join(comparison.parties)}. The numbers are in the tables.", f"heat_map_{measure.key}",
            heat_map, comparison, measure)
    for party in comparison.parties:
        for measure in MEASURES:
            add(f"cases {party}", f"{measure.heading}, {party} ({comparison.whose(party)})",
                f"Line plot of {measure.heading} ({comparison.labels.main}) over all models: a line for each case of "
                f"{party}, with mean and interval of each model.", f"cases_{party}_{measure.key}", case_lines,
                comparison, party, measure)
    for party in comparison.parties if worst else ():
        try:
            groups = worst_panels(comparison, party, worst)
        except (StitchError, OSError):  # no path in a page that may be passed on
            remarks.append(f"The worst cases of {party} are not shown: images, labels or predictions are not there, "
                           f"or cannot be read.")
            continue
        for number, panels in enumerate(groups, 1):
            shown = [name for name in panels[0]["masks"] if name != "reference"]
            add(f"worst {party}", f"Worst cases of {party}, {', '.join(shown)}",
                f"Image, reference and segmentations of {', '.join(shown)} for the cases "
                f"{', '.join(p['title'] for p in panels)} of {party}.", f"worst_{party}_{number}",
                lambda panels, path: overlays(panels, path, value_names(comparison.labels)), panels)
            figures[-1] = replace(figures[-1], panels=case_panels(overlay_rows(panels), value_names(comparison.labels)))
    return figures, remarks


def value_names(labels: Labels) -> dict[str, int]:
    """A name for each value in the label maps; a value of several regions is named by the smallest of them."""
    names: dict[str, int] = {}
    for value in sorted(labels.values):
        name = min((n for n, v in labels.regions.items() if value in v), key=lambda n: len(labels.regions[n]))
        names[name if name not in names else f"{name} ({value})"] = value
    return names


def require_writable(folder: str) -> None:
    """Before anything is computed, and without making the folder.

    Raises:
        StitchError: it cannot be made or written to, or files would be replaced that are not of a comparison.
    """
    if not os.path.isfile(os.path.join(folder, FILE)):
        for name in (CSV_FILE, MARKDOWN_FILE, REPORT_FILE):
            if os.path.lexists(os.path.join(folder, name)):
                raise StitchError(f"{os.path.join(folder, name)} is there and not of a comparison ({FILE} is missing "
                                  f"beside it); choose another folder with -o")
    there = os.path.abspath(folder)
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    if not os.path.isdir(there):
        raise StitchError(f"{there} is a file; choose another folder with -o")
    if not os.access(there, os.W_OK | os.X_OK):
        raise StitchError(f"no permission to write into {there}; choose another folder with -o")


class _Names:
    """File names that work everywhere, each given once."""

    def __init__(self) -> None:
        self.given: set[str] = set()

    def file(self, text: str) -> str:
        stem = name = re.sub(r"(?:[^\w.-]|_)+", "_", text)
        number = 1
        while name.lower() in self.given:
            number += 1
            name = f"{stem}_{number}"
        self.given.add(name.lower())
        return f"{name}.png"
