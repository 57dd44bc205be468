import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunetv2_stitch.evaluation.plane import Plane, hypervolume, pareto_front, plane
from nnunetv2_stitch.evaluation.statistics import Summary

POINTS = st.lists(st.tuples(*[st.integers(0, 6).map(lambda v: v / 6)] * 2), min_size=1, max_size=12)


def by_definition(points):
    """A point is on the front unless another is at least as large on every axis and larger on one."""
    return [not any(all(b >= a for a, b in zip(p, q)) and any(b > a for a, b in zip(p, q)) for q in points)
            for p in points]


@settings(max_examples=200, deadline=None)
@given(POINTS)
def test_front_is_that_of_the_definition(points):
    assert pareto_front(points) == by_definition(points)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=10))
def test_front_in_three_dimensions(points):
    assert pareto_front(points) == by_definition(points)


@settings(max_examples=100, deadline=None)
@given(POINTS)
def test_hypervolume_is_the_share_of_cells_that_a_point_dominates(points):
    """The points lie on a grid of sixths, so whole cells are dominated or not."""
    cells = [any(p[0] * 6 > x and p[1] * 6 > y for p in points) for x in range(6) for y in range(6)]
    assert hypervolume(points) == pytest.approx(sum(cells) / 36)


def test_front_and_volume_by_hand():
    points = [(0.9, 0.5), (0.5, 0.9), (0.5, 0.5), (0.9, 0.5), (math.nan, 1.0)]
    assert pareto_front(points) == [True, True, False, True, False]
    assert hypervolume(points) == pytest.approx(0.9 * 0.5 + 0.5 * 0.4)
    assert hypervolume(points, (0.5, 0.5)) == 0.0
    assert hypervolume([]) == hypervolume([(math.nan, 1.0)]) == 0.0 and pareto_front([]) == []


def summaries(**means):
    return [Summary(m, party, "a", "dice", 5, v, v - 0.1, v + 0.1, 5) for m, both in means.items()
            for party, v in zip("AB", both)]


def test_plane_with_and_without_marked_models():
    p = plane("A", "B", summaries(host=(0.9, 0.5), merged=(0.95, 0.9), joined=(0.8, 0.7)), ["host", "joined"])
    on = {point.model: (point.on_front, point.on_unmarked_front) for point in p.points}
    assert on == {"host": (False, True), "merged": (True, False), "joined": (False, True)}
    assert p.front == ["merged"]
    assert p.hypervolume == pytest.approx(0.95 * 0.9)
    assert p.unmarked_hypervolume == pytest.approx(0.9 * 0.5 + 0.8 * 0.2)
    assert Plane.from_json(p.to_json()).to_json() == p.to_json()


def test_a_model_without_a_mean_is_in_the_plane_and_on_no_front():
    p = plane("A", "B", summaries(host=(0.9, 0.5), odd=(np.nan, 0.9)), ["host", "odd"])
    assert [point.on_front for point in p.points] == [True, False]
    assert p.to_json()["points"][1]["x"] is None
