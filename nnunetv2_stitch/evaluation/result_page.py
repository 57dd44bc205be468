"""The page of a result: what was joined, what came out, and what to do next."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import nnunetv2_stitch
from nnunetv2_stitch.bridging.report import SAME, Report
from nnunetv2_stitch.evaluation.page import Figure, render
from nnunetv2_stitch.evaluation.party_cards import Card
from nnunetv2_stitch.evaluation.rows import CAVEATS
from nnunetv2_stitch.exchange.card import NO_PROMISE
from nnunetv2_stitch.fileio import write_text

PAGE = "report.html"
LIMITS = (
    "Nothing here was measured on a partner's patients, nor on those of a hospital that trained nothing. Ask the "
    "partner for its numbers, or evaluate on test cases that have labels.",
    CAVEATS[1],
    NO_PROMISE,
)
CHOSEN_ON_THE_SAME = ("{what} was chosen with the same validation cases that are measured here, so the result is "
                      "flattered a little. Test cases that took no part in it tell more.")


@dataclass(frozen=True)
class Table:
    """`rows`: column -> value, the same columns in each. `marked`: index of the row that others are compared with.
    `folded`: shown only when the reader unfolds it."""

    title: str
    rows: Sequence[dict[str, str]]
    note: str = ""
    marked: int | None = None
    folded: bool = False


@dataclass(frozen=True)
class ResultPage:
    """Everything on the page, in words. Figures are read when it is rendered.

    Attributes:
        title: of the page.
        command: that made the result.
        what: in a sentence.
        dataset: of the patients who are shown.
        said: what came out, a line each.
        joined: heading of the parents' cards.
        cards: of the parents, the host first.
        compatibility: tables as nnUNetv2_stitch_info shows them.
        tables: what was measured.
        figures: of the choice.
        cases: pictures of patients; `cases_note` says what is seen in them.
        limits: what cannot be told from any of this.
        missing: what could not be shown, and why.
        commands: title and text of commands to copy.
    """

    title: str
    command: str
    what: str
    dataset: str
    said: Sequence[str]
    cards: Sequence[Card]
    commands: Sequence[tuple[str, str]]
    joined: str = "What was joined"
    compatibility: Sequence[Table] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    cases: Sequence[Figure] = ()
    cases_note: str = ""
    limits: Sequence[str] = LIMITS
    missing: Sequence[str] = ()


def result_page(page: ResultPage) -> str:
    """As HTML. Every value is escaped: names and licences are other people's."""
    return render("result.html", page=page, title=page.title,
                  made_by=f"{page.command}, nnunetv2-stitch {nnunetv2_stitch.__version__}")


def compatibility(host: str, partner: str, report: Report) -> list[Table]:
    """The lines of a compatibility report, as nnUNetv2_stitch_info prints them: what is not the same, then all."""
    rows = [{"property": line.name, "host": line.host, "partner": line.partner, "verdict": line.kind,
             "what is done about it": line.how} for line in report.lines]
    unlike = [row for row in rows if row["verdict"] != SAME]
    return [*([Table(f"{host} beside {partner}: what is not the same", unlike)] if unlike else []),
            Table(f"{host} beside {partner}: all {len(rows)} properties", rows, folded=True)]


def remove_page(folder: str) -> None:
    """Of an earlier result, so that none tells of what is not there any more."""
    with contextlib.suppress(FileNotFoundError):
        os.remove(os.path.join(folder, PAGE))


def write_page(folder: str, make: Callable[[], ResultPage],
               say: Callable[[str], None] = lambda line: None) -> str | None:
    """Write `report.html` into a finished model's folder; None where that failed, and why is said: the model is what
    the user waited for. A page of an earlier result is gone then too.

    Args:
        make: gathers what is shown.
        say: receives one line.
    """
    path = os.path.join(folder, PAGE)
    say(f"writing {path}")
    try:
        remove_page(folder)
        write_text(path, result_page(make()))
    except Exception as error:  # whatever it is, the model stays
        line = " ".join(str(error).split()) or type(error).__name__
        say(f"WARNING: {path} was not written, the model is complete without it: {line}")
        return None
    return path
