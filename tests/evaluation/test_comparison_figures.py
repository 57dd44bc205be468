"""Figures of a comparison, from scores alone: with few models and with many."""

import numpy as np
import pytest
from matplotlib.image import imread

from nnunetv2_stitch.evaluation.comparison import Comparison, Score, Settings
from nnunetv2_stitch.evaluation.entries import ModelEntry, TestSet
from nnunetv2_stitch.evaluation.evaluate import sum_up
from nnunetv2_stitch.evaluation.labels import Labels
from nnunetv2_stitch.evaluation.metrics import MEASURES
from nnunetv2_stitch.evaluation.plane import plane
from nnunetv2_stitch.figures import case_lines as case_figure
from nnunetv2_stitch.figures import own_versus_partner as plane_figure
from nnunetv2_stitch.figures.case_lines import case_lines
from nnunetv2_stitch.figures.heat_map import heat_map, verdict
from nnunetv2_stitch.figures.own_versus_partner import own_versus_partner
from nnunetv2_stitch.figures.style import new_figure


def comparison(models, cases=8, seed=0):
    """One label; `models`: name -> mean Dice on A and B, NaN where there is none."""
    rng = np.random.default_rng(seed)
    scores = []
    for number, party in enumerate("AB"):
        easy = rng.normal(0, 0.02, cases)
        for model, means in models.items():
            for case in range(cases):
                dice = float(np.clip(means[number] + easy[case] + rng.normal(0, 0.002), 0, 1))
                scores.append(Score(model, party, f"c{case}", "a", dice, dice, 20 * (1 - dice)))
    host = next(iter(models))
    summaries, tests = sum_up(scores, host, 1, 100)
    entries = tuple(ModelEntry(m, "x", None, "needs much" if m.startswith("noted") else "") for m in models)
    dice = [s for s in summaries if s.measure == "dice"]
    return Comparison(entries, (TestSet("A", "x"), TestSet("B", "x")), host, "A", Labels({"a": (1,)}), Settings(1.0),
                      tuple(scores), tuple(summaries), tuple(tests),
                      (plane("A", "B", dice, [m.name for m in entries if not m.note]),))


FEW = {"host": (0.9, 0.5), "joined": (0.88, 0.7), "noted": (0.91, 0.8)}
MANY = {"host": (0.9, 0.7), **{f"model number {i}": (0.88 + 0.001 * i, 0.72 + 0.002 * (i % 7)) for i in range(18)},
        "noted, with a rather long name": (0.2, 0.2)}


def painted(path, colour):
    """How many pixels are of a colour."""
    return int(((imread(path)[..., :3] * 255).round() == colour).all(-1).sum())


@pytest.mark.parametrize("models", [FEW, MANY], ids=["few", "many"])
def test_figures_are_drawn_and_no_wider_than_a_page(tmp_path, models):
    c = comparison(models)
    for name, draw in (("heat", lambda p: heat_map(c, MEASURES[0], p)), ("hd95", lambda p: heat_map(c, MEASURES[2], p)),
                       ("plane", lambda p: own_versus_partner(c, c.planes[0], p)),
                       ("cases", lambda p: case_lines(c, "A", MEASURES[0], p))):
        path = draw(str(tmp_path / f"{name}.png"))
        height, width = imread(path).shape[:2]
        assert width <= 1700 and height <= 1300, name
        assert 0.3 < painted(path, 255) / (width * height) < 0.99


def test_figures_are_the_same_for_the_same_numbers(tmp_path):
    c = comparison(MANY)
    one, two = (own_versus_partner(c, c.planes[0], str(tmp_path / f"{i}.png")) for i in range(2))
    np.testing.assert_array_equal(imread(one), imread(two))


def test_triangles_say_who_differs_from_the_host():
    c = comparison(FEW)
    assert [verdict(c, m, "A", "a", MEASURES[0]) for m in FEW] == ["", "▼", "▲"]
    assert [verdict(c, m, "B", "a", MEASURES[2]) for m in FEW] == ["", "▲", "▲"]  # lower HD95 is better
    assert verdict(comparison(FEW, cases=4), "joined", "B", "a", MEASURES[0]) == ""


def test_cells_without_a_number(tmp_path):
    c = comparison({"host": (0.9, 0.9), "odd": (np.nan, 0.5)})
    assert painted(heat_map(c, MEASURES[0], str(tmp_path / "odd.png")), 237) > 1000
    assert painted(heat_map(comparison(FEW), MEASURES[0], str(tmp_path / "few.png")), 237) < 100
    own_versus_partner(c, c.planes[0], str(tmp_path / "plane.png"))
    case_lines(c, "A", MEASURES[0], str(tmp_path / "cases.png"))
    nothing = comparison({"host": (np.nan, np.nan)})
    for draw in (lambda p: heat_map(nothing, MEASURES[2], p), lambda p: case_lines(nothing, "B", MEASURES[0], p),
                 lambda p: own_versus_partner(nothing, nothing.planes[0], p)):
        draw(str(tmp_path / "nothing.png"))


def test_a_close_up_only_where_it_helps():
    spread = comparison(FEW).planes[0].points
    crowded = comparison(MANY).planes[0].points
    assert plane_figure._close_up(spread) is None
    limits = plane_figure._close_up(crowded)
    assert limits is not None and not plane_figure._inside(crowded[-1], limits)
    assert all(plane_figure._inside(p, limits) for p in crowded if p.on_front)


def test_worst_cases_are_those_of_the_lowest_median():
    c = comparison(FEW)
    values = c.case_values("A", MEASURES[0])
    assert len(values) == 8 and all(len(v) == 3 for v in values.values())
    medians = {k: np.median(v) for k, v in values.items()}
    assert c.worst_cases("A", 3) == sorted(medians, key=medians.get)[:3]


@pytest.mark.parametrize(("measure", "worse"), [(MEASURES[0], "↓"), (MEASURES[2], "↑")])
def test_failed_models_do_not_squeeze_the_others(measure, worse):
    axes = new_figure(4, 4).add_subplot()
    good = [0.8, 0.82, 0.79, 0.81, 0.83, 0.8, 0.82, 0.75]
    means = [*good, 0.1] if measure.higher_is_better else [*(1 - np.array(good)), 5.0]
    axes.plot(means)
    case_figure._leave_out_failures(axes, means, [means], measure)
    low, high = axes.get_ylim()
    inside = [low <= m <= high for m in means]
    assert inside == [True] * 8 + [False]
    assert [t.get_text()[-1] for t in axes.texts] == [worse]
    few = new_figure(4, 4).add_subplot()
    few.plot(means[-3:])
    case_figure._leave_out_failures(few, means[-3:], [means[-3:]], measure)
    assert few.get_ylim()[0] <= min(means[-3:]) and few.get_ylim()[1] >= max(means[-3:])
