"""JSON there and back, and everything that is written."""

import csv
import json
import math
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.image import imread

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.evaluation.comparison import Comparison, changes, read_comparison, save_comparison
from nnunetv2_stitch.evaluation.entries import ModelEntry
from nnunetv2_stitch.evaluation.evaluate import evaluate
from nnunetv2_stitch.evaluation.labels import Labels
from nnunetv2_stitch.evaluation.metrics import MEASURES
from nnunetv2_stitch.evaluation.output import require_writable, value_names, write_comparison
from nnunetv2_stitch.evaluation.rows import label_rows, markdown, party_rows, reading
from nnunetv2_stitch.evaluation.tables import text_table
from nnunetv2_stitch.evaluation.worst_cases import upright, worst_panels, worst_slice


def noted(comparison, **notes):
    return replace(comparison, models=tuple(replace(m, note=notes.get(m.name, "")) for m in comparison.models))


def test_there_and_back(comparison2d):
    found = Comparison.from_json(json.loads(json.dumps(comparison2d.to_json())))
    assert found.to_json() == comparison2d.to_json()  # NaN, which equals nothing, is null there


def test_file_names_no_absolute_path_and_can_be_moved(files, tmp_path):
    found = evaluate(files.entries(), files.test_sets(), resamples=50)
    path = save_comparison(found, str(files.root / "out" / "comparison.json"))
    assert str(tmp_path) not in (files.root / "out" / "comparison.json").read_text()
    assert read_comparison(path).to_json() == found.to_json()
    moved = read_comparison(shutil.copytree(files.root, tmp_path / "elsewhere") / "out" / "comparison.json")
    assert moved.models[0].folder == str(tmp_path / "elsewhere" / "predictions" / "host")
    assert os.path.isdir(moved.predictions["joined"]["B"])


def test_nan_is_null_in_the_file(files, tmp_path):
    (files.model("host") / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "inner": 2}}))
    found = evaluate(files.entries(), files.test_sets(), resamples=50)
    path = save_comparison(found, str(tmp_path / "comparison.json"))
    assert "NaN" not in (tmp_path / "comparison.json").read_text()
    assert math.isnan(read_comparison(path).summary("host", "A", "cortex").mean)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format": "nnunetv2_stitch comparison 1"}',
                                  '{"format": "nnunetv2_stitch comparison 1", "scores": [{}]}'])
def test_files_of_other_kinds(tmp_path, text):
    path = tmp_path / "comparison.json"
    path.write_text(text)
    with pytest.raises(StitchError, match="comparison.json"):
        read_comparison(str(path))


def test_changes(comparison2d):
    assert changes(comparison2d, comparison2d) == []
    scores = list(comparison2d.scores)
    scores[0] = replace(scores[0], dice=scores[0].dice + 1e-3)
    scores[1] = replace(scores[1], hd95=scores[1].hd95 + 1e-12)
    assert changes(comparison2d, replace(comparison2d, scores=tuple(scores[:-1]))) == [
        f"{s.model}, {s.party}, case {s.case}, {s.label}" for s in (scores[0], scores[-1])]


def test_marks_are_given_by_note(comparison2d):
    c = noted(comparison2d, joined="needs images", partner="needs rounds")
    assert c.legend == ["† needs images", "‡ needs rounds"]
    assert [c.shown(m) for m in c.model_names] == ["host", "joined †", "partner ‡"]
    assert noted(comparison2d, joined="same", partner="same").legend == ["† same"]
    many = replace(c, models=tuple(ModelEntry(f"m{i}", "x", None, f"note {i}") for i in range(30)))
    assert len(set(many.marks.values())) == 30


def test_rows(comparison2d):
    c = noted(comparison2d, joined="needs images")
    rows = party_rows(c, "B")
    assert [r["model"] for r in rows] == ["host", "joined †", "partner"]
    assert rows[0]["difference"] == "host" and rows[2]["difference"].startswith("+")
    assert rows[2]["p (Holm)"] == "0.031▲" and party_rows(c, "A")[2]["p (Holm)"] == "0.031▼"
    mean = comparison2d.summary("host", "B", "foreground mean")
    assert rows[0]["Dice"] == f"{mean.mean:.3f} [{mean.low:.3f}, {mean.high:.3f}]"
    assert mean.low < mean.mean < mean.high
    assert list(label_rows(c, "A", MEASURES[2])[0]) == ["model", "cortex", "inner"]
    assert "joined †" in text_table(rows)


def test_reading_names_gains_and_losses_per_party(comparison2d):
    lines = reading(comparison2d)
    assert "A: worse than host (Dice; Wilcoxon, Holm, p < 0.05): joined; partner." in lines
    assert "B: better than host (Dice; Wilcoxon, Holm, p < 0.05): joined; partner." in lines
    assert any("front, from the best on A on: host; joined; partner" in line for line in lines)


def test_markdown_holds_every_table(comparison2d):
    text = markdown(noted(comparison2d, joined="needs | bars"))
    for expected in ("## A (own cases)", "## B (partner's cases)", "### HD95 (mm) by label, B", "- † needs | bars",
                     "tolerance of 1 mm"):
        assert expected in text


@pytest.fixture(scope="module")
def written(comparison2d, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    return folder, write_comparison(noted(comparison2d, joined="needs images"), str(folder / "out"))


def test_what_is_written(written):
    folder, files = written
    out = folder / "out"
    assert sorted(p.name for p in out.iterdir()) == ["comparison.csv", "comparison.json", "comparison.md", "figures",
                                                     "report.html"]
    assert set(files) == {"json", "csv", "markdown", "report"} and all(os.path.isfile(p) for p in files.values())
    expected = {"own_versus_B", "worst_A_1", "worst_B_1"} | {f"heat_map_{m}" for m in ("dice", "surface_dice", "hd95")}
    expected |= {f"cases_{p}_{m}" for p in "AB" for m in ("dice", "surface_dice", "hd95")}
    assert {p.stem for p in (out / "figures").iterdir()} == expected
    for path in (out / "figures").iterdir():
        assert imread(path)[..., :3].std() > 0.01


def test_csv_is_long_and_complete(written, comparison2d):
    with open(written[1]["csv"], newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["model", "party", "case", "label", "metric", "value", "kind"]
    assert len(rows) == 3 * len(comparison2d.scores)
    for row in rows[::37]:
        score = comparison2d.cases(row["model"], row["party"], row["label"])[row["case"]]
        assert float(row["value"]) == getattr(score, row["metric"])
        assert row["kind"] == {"A": "own", "B": "partner"}[row["party"]]


def test_worst_cases_are_not_shown_without_their_files(files, tmp_path):
    found = evaluate(files.entries(), files.test_sets(), resamples=50)
    shutil.rmtree(files.model("joined") / "B")
    write_comparison(found, str(tmp_path / "out"))
    assert not (tmp_path / "out" / "figures" / "worst_B_1.png").exists()
    assert (tmp_path / "out" / "figures" / "worst_A_1.png").exists()
    line, = [line for line in read_comparison(str(tmp_path / "out" / "comparison.json")).remarks if "not shown" in line]
    assert line.startswith("The worst cases of B") and str(tmp_path) not in line


def test_worst_cases_by_median(comparison2d):
    panels, = worst_panels(comparison2d, "B", 2)
    medians = {c: np.median([comparison2d.cases(m, "B", "foreground mean")[c].dice for m in comparison2d.model_names])
               for c in comparison2d.cases("host", "B", "foreground mean")}
    assert [p["title"] for p in panels] == sorted(medians, key=medians.get)[:2]
    assert list(panels[0]["masks"]) == ["reference", "host", "joined", "partner"]
    assert panels[0]["aspect"] == 2.0 and panels[0]["image"].shape == (40, 48)


def test_many_models_take_several_figures(comparison2d):
    copies = [replace(comparison2d.models[0], name=f"m{i}") for i in range(8)]
    scores = tuple(replace(s, model=m.name) for m in copies for s in comparison2d.scores if s.model == "host")
    many = replace(comparison2d, models=tuple(copies), host="m0", scores=scores,
                   predictions={m.name: comparison2d.predictions["host"] for m in copies})
    assert [len(p[0]["masks"]) - 1 for p in worst_panels(many, "A", 1)] == [6, 2]


def test_slice_with_the_most_errors_across_the_thick_axis():
    reference = np.zeros((3, 5, 6), int)
    prediction = reference.copy()
    prediction[2, 1:3, 1:3] = 1
    prediction[0, 0, 0] = 1
    assert worst_slice(reference, [prediction, reference], (3.0, 1.0, 1.0)) == (0, 2)
    assert worst_slice(reference, [prediction], (1.0, 1.0, 3.0))[0] == 2


def test_slices_are_upright():
    """SimpleITK's directions are columns for x, y, z towards the patient's left, back and head."""
    picture = np.arange(6).reshape(2, 3)

    def shown(axis, directions, spacing=(3.0, 1.0, 1.0)):
        return upright(picture, axis, {"spacing": spacing, "sitk_stuff": {"direction": np.diag(directions).ravel()}})

    np.testing.assert_array_equal(shown(0, [1, 1, 1]), picture)
    np.testing.assert_array_equal(shown(0, [-1, -1, 1]), picture[::-1, ::-1])
    np.testing.assert_array_equal(shown(1, [1, 1, 1]), picture[::-1])  # rows are z: head up
    np.testing.assert_array_equal(shown(0, [1, 1, 1], (999.0, 1.0, 1.0)), picture[::-1])  # no patient's directions
    # nibabel's run to the right and the front, so this is as the first
    affine = np.diag([-1.0, -1.0, 3.0, 1.0])
    for stuff in ({"original_affine": affine}, {"original_affine": np.eye(4), "reoriented_affine": affine}):
        found = upright(picture, 0, {"spacing": (3.0, 1.0, 1.0), "nibabel_stuff": stuff})
        np.testing.assert_array_equal(found, picture)
    np.testing.assert_array_equal(upright(picture, 0, {"spacing": (999, 1, 1)}), picture)


def test_names_of_values():
    assert value_names(Labels({"whole": (1, 2, 3), "core": (2, 3), "tip": (3,)})) == {"whole": 1, "core": 2, "tip": 3}
    assert value_names(Labels({"whole": (1, 2)})) == {"whole": 1, "whole (2)": 2}


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("in the way")
    require_writable(str(tmp_path / "new" / "deeper"))
    assert not (tmp_path / "new").exists()
    for name in ("file", "file/out"):
        with pytest.raises(StitchError, match="file"):
            require_writable(str(tmp_path / name))


def test_names_that_are_no_file_names(comparison2d, tmp_path):
    """And two test sets whose names differ in signs alone."""
    names = {"A": "x: ?", "B": "x* ?"}

    def renamed(rows):
        return tuple(replace(row, party=names[row.party]) for row in rows)

    c = replace(comparison2d, datasets=tuple(replace(d, name=names[d.name]) for d in comparison2d.datasets),
                own=names["A"], scores=renamed(comparison2d.scores), summaries=renamed(comparison2d.summaries),
                tests=renamed(comparison2d.tests), planes=(), predictions={})
    write_comparison(c, str(tmp_path), worst=0)
    drawn = {p.name for p in (tmp_path / "figures").iterdir() if p.name.startswith("cases_")}
    assert drawn >= {"cases_x_dice.png", "cases_x_dice_2.png"} and len(drawn) == 6
