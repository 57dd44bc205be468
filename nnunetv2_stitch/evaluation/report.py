"""One page with everything in it: opens from a file, asks nothing of any server, runs no script."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from nnunetv2_stitch.evaluation.comparison import Comparison
from nnunetv2_stitch.evaluation.metrics import MEASURES
from nnunetv2_stitch.evaluation.report_style import CSS
from nnunetv2_stitch.evaluation.rows import CAVEATS, UNSEEN_RULE, label_rows, party_rows, reading, three_rows
from nnunetv2_stitch.figures.heat_map import BETTER, WORSE
from nnunetv2_stitch.figures.style import DPI

# Nothing may be loaded or run, whatever a name in the page contains.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
RULES = (
    "Dice: 2 TP / (2 TP + FP + FN) over voxels, as nnU-Net's summary.json. Where neither reference nor prediction has "
    "the label it is not defined, and the case is left out for this label.",
    "Surface Dice: share of the voxels of both surfaces that are at most {tolerance:g} mm from the other surface.",
    "HD95: the larger of both directions' 95th percentiles of the distance from surface to surface, in mm.",
    "In one-slice images surfaces are contours within the slice. Where only one of reference and prediction has the "
    "label, Dice and surface Dice are 0 and HD95 is the diagonal of the image.",
    "The foreground mean of a case is the mean over its labels. A label that a model does not have is left out for "
    "that model, and its foreground mean with it.",
    "Intervals: 95 %, bootstrap over cases (BCa, {resamples} resamples, seed {seed}). Tests: Wilcoxon's signed-rank "
    "test on paired cases against {host}, two-sided, Holm's correction over the other models, for each party, label "
    "and measure apart.",
)


@dataclass(frozen=True)
class Figure:
    """A figure file, what it shows in words for those who cannot see it, and the section of the page it belongs to."""

    path: str
    title: str
    alt: str
    section: str


def report(comparison: Comparison, figures: Sequence[Figure]) -> str:
    """The page, as HTML. Every name that comes from outside is escaped."""
    sections = [("summary", "What came out", _summary(comparison))]
    three = three_rows(comparison)
    if three:
        text = f'<p class="dim">Mean Dice [95 % interval], {escape(comparison.labels.main)}. {escape(UNSEEN_RULE)}</p>'
        sections.append(("three", "Own, partner's, unseen", text + _table(
            comparison, three, "Dice on own, partner's and unseen cases")))
    if comparison.planes:
        sections.append(("plane", "Own cases against the partner's", _figures(figures, "plane")))
    sections.append(("overview", "All models, all parties", _figures(figures, "heat map dice") + _details(
        "Surface Dice and HD95", "".join(_figures(figures, f"heat map {m.key}") for m in MEASURES[1:]))))
    for number, party in enumerate(comparison.parties, 1):
        sections.append((f"party{number}", f"{party}: {comparison.whose(party)}", _party(comparison, party, figures)))
    sections.append(("how", "How it was measured", _how(comparison)))
    links = "".join(f'<li><a href="#{key}">{escape(title)}</a></li>' for key, title, _ in sections)
    body = "".join(f'<section aria-labelledby="{key}"><h2 id="{key}">{escape(title)}</h2>{content}</section>'
                   for key, title, content in sections)
    parties = " and ".join(comparison.parties)
    title = f"{len(comparison.models)} model{'' if len(comparison.models) == 1 else 's'} on {parties}"
    return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
            f"<title>{escape(title)}</title><style>{CSS}</style></head><body><header><h1>{escape(title)}</h1>"
            f'<p class="dim">nnUNetv2_evaluate_stitched, nnunetv2-stitch {escape(comparison.settings.version)}</p>'
            f'<nav aria-label="Sections"><ul>{links}</ul></nav></header><main>{body}</main></body></html>\n')


def _summary(comparison: Comparison) -> str:
    text = _list(reading(comparison))
    if comparison.legend:
        text += ('<h3>Marks</h3><ul class="marks">' + "".join(f"<li>{escape(line)}</li>" for line in comparison.legend)
                 + "</ul>")
    return text + (f"<h3>Remarks</h3>{_list(comparison.remarks)}" if comparison.remarks else "")


def _party(comparison: Comparison, party: str, figures: Sequence[Figure]) -> str:
    cases = comparison.summary(comparison.host, party, comparison.labels.main).cases
    host = escape(comparison.host)
    text = (f'<p class="dim">{cases} cases. Mean over cases [95 % interval], {escape(comparison.labels.main)}. '
            f"Difference: Dice minus that of {host}, mean over cases [95 % interval]. {BETTER} better, "
            f"{WORSE} worse than {host}, p &lt; 0.05 after Holm's correction.</p>")
    text += _table(comparison, party_rows(comparison, party), f"Measures on {party}")
    if len(comparison.labels.regions) > 1:
        text += _details("By label", "".join(
            f"<h3>{escape(m.heading)}</h3>" + _table(comparison, label_rows(comparison, party, m),
                                                     f"{m.heading} by label on {party}") for m in MEASURES))
    drawn = [f for f in figures if f.section == f"cases {party}"]
    text += "<h3>Case by case</h3>" + "".join(map(_figure, drawn[:1]))
    text += _details("Surface Dice and HD95, case by case", "".join(map(_figure, drawn[1:]))) if drawn[1:] else ""
    worst = [f for f in figures if f.section == f"worst {party}"]
    if worst:
        text += ('<h3>Worst cases</h3><p class="dim">Lowest median Dice over all models; in 3d the slice with most '
                 f"errors. Numbers: Dice, {escape(comparison.labels.main)}.</p>" + _figure(worst[0]))
        text += "".join(_details(f.title, _figure(f)) for f in worst[1:])
    return text


def _how(comparison: Comparison) -> str:
    s = comparison.settings
    rules = [r.format(tolerance=s.tolerance, resamples=s.resamples, seed=s.seed, host=comparison.host) for r in RULES]
    models = "".join(f"<li>{escape(comparison.shown(m.name))}"
                     + (f", answering as {escape(m.mode)}" if m.mode else "") + "</li>" for m in comparison.models)
    labels = ", ".join(f"{name} ({', '.join(map(str, values))})" for name, values in comparison.labels.regions.items())
    return (f"<h3>Rules</h3>{_list(rules)}<h3>What this does not show</h3>{_list(CAVEATS)}<h3>Models</h3>"
            f"<ul>{models}</ul><p>Labels and their values: {escape(labels)}.</p>")


def _table(comparison: Comparison, rows: Sequence[Mapping[str, Any]], name: str) -> str:
    """The first column heads its row and stays in sight when the rest is moved sideways."""
    columns = list(rows[0])
    head = "".join(f'<th scope="col">{escape(c)}</th>' for c in columns)
    lines = []
    for row, model in zip(rows, comparison.model_names):
        cells = "".join(f"<td>{escape(str(row[c]))}</td>" for c in columns[1:])
        kind = ' class="host"' if model == comparison.host else ""
        lines.append(f'<tr{kind}><th scope="row">{escape(str(row[columns[0]]))}</th>{cells}</tr>')
    return (f'<div class="wide" role="region" tabindex="0" aria-label="{escape(name)}"><table><thead><tr>{head}</tr>'
            f"</thead><tbody>{''.join(lines)}</tbody></table></div>")


def _figures(figures: Sequence[Figure], section: str) -> str:
    return "".join(_figure(f) for f in figures if f.section == section)


def _figure(figure: Figure) -> str:
    """An image on white, whatever the page's colour; it shrinks with the page down to a width at which its text can
    still be read, and is moved sideways below that."""
    with open(figure.path, "rb") as file:
        data = file.read()
    width, height = struct.unpack(">II", data[16:24])  # of the PNG's header
    natural = round(width * 96 / DPI)
    style = f"width:{natural}px;max-width:100%;min-width:{min(natural, max(320, round(natural * 0.72)))}px"
    return (f'<figure><div class="wide" role="region" tabindex="0" aria-label="{escape(figure.title)}">'
            f'<img src="data:image/png;base64,{base64.b64encode(data).decode()}" width="{natural}" '
            f'height="{round(height * 96 / DPI)}" style="{style}" alt="{escape(figure.alt)}"></div>'
            f"<figcaption>{escape(figure.title)}</figcaption></figure>")


def _details(title: str, content: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{content}</details>" if content else ""


def _list(lines: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"
