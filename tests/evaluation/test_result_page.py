"""The page of a result, whatever made it."""

from dataclasses import fields, replace

import numpy as np
import pytest
from pages import NEEDS_CHROMIUM, Page, ask, require_alone, require_whole

from nnunetv2_stitch.evaluation.page import Figure
from nnunetv2_stitch.evaluation.party_cards import Card
from nnunetv2_stitch.evaluation.result_page import ResultPage, Table, result_page, write_page
from nnunetv2_stitch.figures.case_panels import case_panels
from nnunetv2_stitch.figures.case_view import Panel, Row, case_view

HOSTILE = '<script>alert("1")</script><img src=x onerror=alert(2)> \'"&{{ 7 * 7 }}'


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> ResultPage:
    """A page with everything that a page can have."""
    image = np.linspace(0, 1, 64).reshape(8, 8)
    labels = (image > 0.5).astype(int)
    panels = [Panel(f"panel {i}", image, labels, note="0.900") for i in range(7)] + [Panel("map", image, heat=image)]
    path = case_view([Row("", panels)], str(tmp_path_factory.mktemp("page") / "case.png"), {"a": 1})
    figure = Figure(path, "A case", "What is seen on the image.", "cases")
    case = replace(figure, path="", panels=case_panels([Row("", panels, labels), Row("more", panels[:2])], {"a": 1}))
    rows = [{"model": "A alone", "mean Dice [95 % interval]": "0.900 [0.800, 0.950]"},
            {"model": "stitched", "mean Dice [95 % interval]": "0.910 [0.820, 0.960]"}]
    long = {"property": "labels", "host": ", ".join(f"label{i}" for i in range(20)), "partner": "x" * 60,
            "verdict": "bridged", "what is done about it": "words " * 20}
    command = "nnUNetv2_predict -d Dataset001_A " + "/folder" * 40
    return ResultPage(
        title="Dataset001_A, stitched", command="nnUNetv2_train_stitch", what="What it is.", dataset="Dataset001_A",
        said=["It is so."], cards=[Card("A, the host", (("Licence", "x" * 80), ("Folds", "0")))],
        commands=[("Predict", command)], compatibility=[Table("A beside B", [long]), Table("All", [long], folded=True)],
        tables=[Table("Dice", rows, "A note.", 0), Table("By label", rows, folded=True)],
        figures=[replace(figure, title="The choice")], cases=[case], cases_note="What is seen.", limits=["Not all."],
        missing=["Something."])


def hostile(value):
    """The value with every string in it replaced, but for paths of figures."""
    if isinstance(value, str):
        return value and HOSTILE
    if isinstance(value, Figure):
        return replace(value, title=HOSTILE, alt=HOSTILE, panels=value.panels and replace(
            value.panels, labels={HOSTILE: "#E69F00"}, rows=[
                (title and HOSTILE, [replace(p, title=HOSTILE, note=p.note and HOSTILE) for p in pictures])
                for title, pictures in value.panels.rows]))
    if isinstance(value, (Card, Table)):
        return type(value)(**{f.name: hostile(getattr(value, f.name)) for f in fields(value)})
    if isinstance(value, dict):
        return {HOSTILE + str(i): hostile(v) for i, v in enumerate(value.values())}
    return type(value)(map(hostile, value)) if isinstance(value, (list, tuple)) else value


def test_a_page_is_whole_and_stands_alone(whole):
    page = Page(result_page(whole))
    require_whole(page)
    require_alone(page)
    for text in ("It is so.", "Licence", "A beside B", "0.910 [0.820, 0.960]", "Not all.", "Something.",
                 "nnUNetv2_predict -d Dataset001_A", "images of patients of Dataset001_A"):
        assert text in page.text
    assert len(page.all("img")) == 1 + 10 and all(a["alt"] for a in page.all("img"))


def test_a_page_with_nothing_but_what_every_result_has(whole):
    least = replace(whole, compatibility=(), tables=(), figures=(), cases=(), missing=())
    page = Page(result_page(least))
    require_whole(page)
    assert "What was measured" not in page.text and "missing" not in page.text and not page.all("img")


def test_nothing_that_others_write_becomes_part_of_the_page(whole):
    """The kind: text of an untrusted model (names, licences, labels, messages) that a page takes for its own."""
    strange = ResultPage(**{f.name: hostile(getattr(whole, f.name)) for f in fields(whole)})
    page, tame = Page(result_page(strange)), Page(result_page(whole))
    require_whole(page)
    require_alone(page)
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in tame.tags]  # no tag more, and none fewer
    assert page.text.count(HOSTILE) > 20 and "49" not in page.text


def test_a_page_that_cannot_be_made_is_said_in_one_line_and_leaves_no_older_one(tmp_path, capsys, whole):
    """By what the caller says things with: computing code prints nothing itself."""
    said: list[str] = []

    def make():
        raise ValueError("the images\nare gone")
    assert write_page(str(tmp_path), lambda: whole) == str(tmp_path / "report.html")
    assert write_page(str(tmp_path), make, said.append) is None
    assert "the images are gone" in said[-1] and "complete without it" in said[-1] and "\n" not in said[-1]
    assert capsys.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@NEEDS_CHROMIUM
@pytest.mark.parametrize("width, dark", [(1280, False), (400, True)])
def test_everyone_can_read_it(whole, tmp_path, width, dark):
    """axe-core finds nothing, which covers contrast, headings, names of regions, and that what scrolls is reached by
    keyboard; and only what is meant to scrolls sideways: pictures of a case go below each other."""
    told = ask(result_page(whole), tmp_path, width, dark)
    assert (told["width"], told["dark"]) == (width, dark) and told["passes"] > 15
    assert told["violations"] == []
    assert told["content"] <= width
    rows, few = told["panels"]  # 8 pictures of a case, and 2
    assert not rows["scrolls"] and not few["scrolls"]
    assert (rows["columns"], few["columns"]) == (8 if width > 1000 else 2, 2)
    assert 120 < rows["width"] <= 256


@pytest.mark.slow
@NEEDS_CHROMIUM
def test_what_nobody_could_read_would_be_seen(whole, tmp_path):
    bad = result_page(whole).replace("--text: #1b1f24", "--text: #eeeeee").replace("max-width: 46rem", "width: 90rem")
    told = ask(bad, tmp_path, 400, False)
    assert "color-contrast" in [name for name, _ in told["violations"]] and told["content"] > 400
