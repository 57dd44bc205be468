"""The kind: whatever is said of a test set says whose it is, so that own, partner's and unseen hospitals' cases are
never taken for one another: in numbers, tables, files, the page and the figure."""

import csv
import math
from dataclasses import replace

import numpy as np
import pytest
from evaluated_files import build
from matplotlib.image import imread

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.evaluation.comparison import Comparison, read_comparison
from nnunetv2_stitch.evaluation.entries import ModelEntry, TestSet
from nnunetv2_stitch.evaluation.evaluate import evaluate, inputs_of
from nnunetv2_stitch.evaluation.output import write_comparison
from nnunetv2_stitch.evaluation.plane import pareto_front
from nnunetv2_stitch.evaluation.rows import markdown, party_rows, reading, three_rows
from nnunetv2_stitch.evaluation.unseen import mean_of_hospitals, over_hospitals
from nnunetv2_stitch.figures import own_versus_partner as figure


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """Own A, partner B; C and D, of other sizes, are of no party. Files are made, so who is better where is known."""
    root = tmp_path_factory.mktemp("four")
    made, more = build(root / "parties", cases=6), build(root / "others", cases=4)
    sets = [TestSet("C", str(more.party("A")), unseen=True), *made.test_sets(),
            TestSet("D", str(more.party("B")), unseen=True)]
    folders = {"A": made, "B": made, "C": more, "D": more}
    models = [ModelEntry(m, predictions={p: str(f.model(m) / {"C": "A", "D": "B"}.get(p, p))
                                         for p, f in folders.items()}) for m in ("host", "joined", "partner")]
    return evaluate(models, sets, resamples=400)


def test_own_partner_and_unseen_are_told_apart_everywhere(four, tmp_path):
    assert four.parties == ["A", "B", "C", "D"] and four.own == "A" and four.unseen == ["C", "D"]
    assert [four.kind(p) for p in four.parties] == ["own", "partner", "unseen", "unseen"]
    assert [(p.own, p.partner) for p in four.planes] == [("A", "B")]
    files = write_comparison(four, str(tmp_path / "out"), worst=0)
    again = read_comparison(files["json"])
    assert again.unseen == ["C", "D"] and again.to_json()["unseen_means"] == four.to_json()["unseen_means"]
    assert [p.to_json() for p in again.planes] == [p.to_json() for p in four.planes]
    assert [d.unseen for d in inputs_of(again)["datasets"]] == [True, False, False, True]
    with open(files["csv"], newline="", encoding="utf-8") as file:
        kinds = {(row["party"], row["kind"]) for row in csv.DictReader(file)}
    assert kinds == {("A", "own"), ("B", "partner"), ("C", "unseen"), ("D", "unseen")}
    text, page = markdown(four), open(files["report"], encoding="utf-8").read()
    for heading in ("A (own cases)", "B (partner&#39;s cases)", "C (unseen hospital)", "D (unseen hospital)"):
        assert f"## {heading.replace('&#39;', chr(39))}" in text
        assert heading.replace(" (", ": ").rstrip(")") in page
    assert "Own, partner&#39;s, unseen" in page and "unseen, mean of 2" in page


def test_a_file_from_before_has_no_unseen_hospital(comparison2d):
    value = comparison2d.to_json()
    del value["unseen_means"]
    for rows, names in ((value["datasets"], ["unseen"]), (value["tests"], ["low", "high"]),
                        (value["planes"], ["unseen", "unseen_hypervolume"])):
        for row in rows:
            for name in names:
                del row[name]
    old = Comparison.from_json(value)
    assert old.unseen == [] and old.unseen_means == () and three_rows(old) == [] and old.parties == ["A", "B"]
    assert party_rows(old, "B")[1]["difference"] == party_rows(comparison2d, "B")[1]["difference"].partition(" [")[0]


def test_the_mean_over_unseen_hospitals_counts_each_hospital_alike():
    """Whatever their numbers of cases; and it resamples cases within each hospital, never hospitals."""
    rng = np.random.default_rng(1)
    many, few = rng.normal(0.8, 0.05, 400), rng.normal(0.2, 0.05, 25)
    mean, low, high = mean_of_hospitals([many, few], 3, 4000)
    assert mean == pytest.approx((many.mean() + few.mean()) / 2)
    error = math.sqrt(many.var() / 400 + few.var() / 25) / 2  # of independent means
    assert [low, high] == pytest.approx([mean - 1.96 * error, mean + 1.96 * error], abs=0.25 * error)
    assert mean_of_hospitals([many, [math.nan]], 3, 99) == pytest.approx((math.nan,) * 3, nan_ok=True)
    assert mean_of_hospitals([[0.5, 0.7], [0.9]], 3, 99)[0] == pytest.approx(0.75)
    assert math.isnan(mean_of_hospitals([[0.5, 0.7], [0.9]], 3, 99)[1])


def test_differences_over_unseen_hospitals_are_paired():
    """Cases differ by far more than models do, so an interval of unpaired means would hold 0."""
    easy = np.linspace(0.1, 0.9, 9)
    values = {"host": {"C": easy, "D": easy[:5], "E": [math.nan] * 3},
              "better": {"C": easy + 0.02, "D": easy[:5] + np.array([0.01, 0.03, 0.02, 0.01, 0.03]),
                         "E": [math.nan] * 3},
              "lacking": {"C": easy, "D": [math.nan] * 5, "E": [math.nan] * 3}}
    host, better, lacking = over_hospitals(values, "host", 1, 500, label="a", measure="dice")
    assert host.hospitals == ("C", "D")  # E has no such label
    assert math.isnan(host.difference) and not host.differs
    assert better.difference == pytest.approx(0.02) and better.differs and better.low < host.mean < better.high
    assert 0.01 <= better.difference_low < better.difference < better.difference_high <= 0.03
    assert math.isnan(lacking.mean) and not lacking.differs


def test_means_of_hospitals_are_those_of_their_cases(four):
    label = four.labels.main
    for model in four.model_names:
        for measure in ("dice", "hd95"):
            each = [four.summary(model, h, label, measure).mean for h in four.unseen]
            assert four.unseen_mean(model, label, measure).mean == pytest.approx(np.mean(each))
    partner = four.unseen_mean("partner", label)
    assert partner.hospitals == ("C", "D")
    tests = [four.test("partner", h, label) for h in four.unseen]
    assert partner.difference == pytest.approx(np.mean([t.difference for t in tests]))
    assert all(t.low <= t.difference <= t.high for t in tests)
    row = {r["model"]: r for r in three_rows(four)}["partner"]
    assert list(row) == ["model", "A (own)", "B (partner)", "unseen, mean of 2", "unseen, difference"]
    assert row["unseen, mean of 2"].startswith(f"{partner.mean:.3f} [{partner.low:.3f}")
    assert row["unseen, difference"].startswith(f"{partner.difference:+.3f} [")
    assert party_rows(four, "C")[2]["difference"] == \
        f"{tests[0].difference:+.3f} [{tests[0].low:+.3f}, {tests[0].high:+.3f}]"
    assert any(line.startswith("Unseen hospitals (C; D), each counting alike: the highest") for line in reading(four))


def test_the_third_axis_of_the_plane(four, tmp_path):
    plane, = four.planes
    assert plane.unseen == ("C", "D")
    solid = [(p.x, p.y, p.z) for p in plane.points]
    assert [p.z for p in plane.points] == [four.unseen_mean(p.model, plane.label).mean for p in plane.points]
    assert [p.on_unseen_front for p in plane.points] == pareto_front(solid)
    assert plane.unseen_hypervolume < plane.hypervolume  # all means are below 1
    by_z = sorted(plane.points, key=lambda p: p.z)
    areas = [figure._area(plane, p.z) for p in by_z]
    assert areas == sorted(areas) and areas[0] == figure.AREAS[0] and areas[-1] == figure.AREAS[1]
    words, *sizes = figure._sizes(plane)
    assert "2 unseen hospitals" in words.get_label()
    assert [s.get_label() for s in sizes][::2] == [f"{by_z[0].z:.3f}", f"{by_z[-1].z:.3f}"]
    flat = replace(plane, unseen=(), points=tuple(replace(p, z=math.nan) for p in plane.points))
    assert figure._sizes(flat) == [] and {figure._area(flat, p.z) for p in flat.points} == {figure.AREA}
    drawn = [imread(figure.own_versus_partner(four, p, str(tmp_path / f"{len(p.unseen)}.png"))) for p in (plane, flat)]
    assert drawn[0].shape != drawn[1].shape or (drawn[0] != drawn[1]).any()


def test_a_hospital_that_is_no_party_has_cases_of_its_own(files):
    """Otherwise a party's own number would pass for what it is worth elsewhere."""
    models, (a, b) = files.entries(), files.test_sets()
    for sets, said in (([a, TestSet("C", str(files.root / "." / "B"), True), b], "-unseen C: .* is the folder of B"),
                       ([TestSet("C", a.folder, True)], "every dataset is of a hospital that is no party"),
                       ([a, TestSet("A", b.folder, True)], "dataset A is named twice"),
                       ([a, TestSet("C", str(files.root / "none"), True)], "dataset C: .* does not exist")):
        with pytest.raises(StitchError, match=said):
            evaluate(models, sets, resamples=50)
    with pytest.raises(StitchError, match="C is of a hospital that is no party"):
        evaluate(models, [a, TestSet("C", b.folder, True)], own="C", resamples=50)
