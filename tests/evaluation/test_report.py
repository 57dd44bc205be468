"""The page: whole, safe, and, where Chromium is at hand, shown without errors and without a request to anywhere."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from pages import NEEDS_CHROMIUM, Page, ask, dump, pictured, require_alone, require_whole

from nnunetv2_stitch.evaluation.output import write_comparison
from nnunetv2_stitch.evaluation.report import report

NOTE = "needs <b>both</b> & more"


@pytest.fixture(scope="module")
def folder(comparison2d, tmp_path_factory):
    """The page of a comparison with a note that must be escaped."""
    models = tuple(replace(m, note=NOTE if m.name == "joined" else "") for m in comparison2d.models)
    root = tmp_path_factory.mktemp("report")
    write_comparison(replace(comparison2d, models=models), str(root))
    return root


@pytest.fixture(scope="module")
def page(folder):
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_the_page_is_whole(page):
    require_whole(page)


def test_nothing_is_loaded_and_nothing_runs(page, folder):
    require_alone(page)
    assert str(folder) not in page.source


def test_every_figure_is_in_it_with_words_for_it(page, folder):
    """Those of worst cases, one for each party, as pictures that go below each other: image, reference, 3 models."""
    images = [a for a in page.all("img") if len(a["alt"]) > 40]
    assert len(images) + 2 == len(list((folder / "figures").iterdir())) == 12
    assert all(int(a["width"]) > 100 and int(a["height"]) > 50 for a in page.all("img"))
    assert len(pictured(page)) == 2 * 3 and len(page.all("img")) == len(images) + 2 * 3 * 5


def test_names_are_escaped(page, folder):
    assert f"† {NOTE}" in page.text
    assert not page.all("b")


def test_marks_rules_and_parties_are_told(page):
    for text in ("joined †", "A: own cases", "B: partner's cases", "Surface Dice: share", "at most 1 mm",
                 "Holm's correction", "no number here is a mean over parties", "500 resamples, seed 12345"):
        assert text in page.text
    heads = [a for a in page.all("th") if a.get("scope") == "row"]
    assert len(heads) == 3 * 2 * 4  # models, parties, tables


def test_a_page_with_pictures_of_patients_says_so(page, comparison2d):
    assert "images of patients of A, B" in page.text and "-worst 0" in page.text
    assert "images of patients" not in report(comparison2d, [])


def test_light_and_dark(folder):
    source = (folder / "report.html").read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in source and "color-scheme: light dark" in source


def visit(page: Path, log: Path) -> tuple[list[str], list[str]]:
    """What a page writes to the console, and the addresses it asks for, those of the browser itself left out."""
    done = dump(page, log.parent, "--enable-logging=stderr", f"--log-net-log={log}",
                "--net-log-capture-mode=Everything")
    events = json.loads(log.read_text())["events"]
    asked = {e["params"]["url"] for e in events
             if "url" in e.get("params", {}) and e["params"].get("initiator", "not an origin") != "not an origin"}
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line], sorted(asked)


@pytest.mark.slow
@NEEDS_CHROMIUM
def test_in_a_browser(folder, tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text('<html><img src="http://127.0.0.1:9/x.png"><script>console.error("oh")</script></html>')
    said, asked = visit(bad, tmp_path / "bad.json")
    assert any("oh" in line for line in said) and asked == ["http://127.0.0.1:9/x.png"]  # such things would be seen
    assert visit(folder / "report.html", tmp_path / "log.json") == ([], [])


@pytest.mark.slow
@NEEDS_CHROMIUM
def test_everyone_can_read_it(page, tmp_path):
    told = ask(page.source, tmp_path, 400, True)
    assert told["dark"] and told["violations"] == [] and told["content"] <= 400
