import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.figures.positions_plane import positions_plane
from nnunetv2_stitch.selection.pareto import PREFERENCES, PartyScores, find_front, mean_over_folds, prefer
from nnunetv2_stitch.selection.sweep import Sweep

dice = st.integers(0, 20).map(lambda v: v / 20)  # coarse, so that ties happen


@st.composite
def parties(draw, most=3):
    """Host and one to `most` partners over the same positions."""
    count = draw(st.integers(1, 12))
    values, baselines = st.lists(dice, min_size=count, max_size=count).map(tuple), st.tuples(dice, dice, dice)
    names = ("host", *[f"p{i}" for i in range(draw(st.integers(1, most)))])
    return [PartyScores(name, draw(values), *draw(baselines), cases=5) for name in names]


def front_of(scores):
    positions = [3 * i for i in range(len(scores[0].values))]
    return find_front(positions, [f"layer.{p}" for p in positions], scores)


def dominates(a, b):
    return all(x >= y for x, y in zip(a, b)) and a != b


@given(parties())
def test_the_front_is_what_no_position_dominates(scores):
    points = list(zip(*(p.values for p in scores)))
    assert front_of(scores).on_front == tuple(not any(dominates(b, a) for b in points) for a in points)


@given(parties(), st.sampled_from(PREFERENCES))
def test_the_chosen_position_is_on_the_front(scores, preference):
    front = front_of(scores)
    assert front.on_front[front.positions.index(prefer(front, preference))]


@given(parties(), st.sampled_from(PREFERENCES), st.randoms())
def test_the_order_of_the_partners_does_not_matter(scores, preference, random):
    shuffled = scores[1:]
    random.shuffle(shuffled)
    assert prefer(front_of([scores[0], *shuffled]), preference) == prefer(front_of(scores), preference)


@given(parties())
def test_each_preference_is_best_at_what_it_asks_for_among_all_positions(scores):
    front = front_of(scores)

    def worst_gain(index, of):
        return min(p.gains[index] for p in of)

    every = range(len(front.positions))
    chosen = {p: front.positions.index(prefer(front, p)) for p in PREFERENCES}
    assert scores[0].values[chosen["own"]] == max(scores[0].values)
    assert worst_gain(chosen["partner"], scores[1:]) == max(worst_gain(i, scores[1:]) for i in every)
    assert worst_gain(chosen["balanced"], scores) == max(worst_gain(i, scores) for i in every)
    if len(scores) == 2:
        assert scores[1].values[chosen["partner"]] == max(scores[1].values)


def example():
    host = PartyScores("host", (0.9, 0.85, 0.7, 0.6), 0.9, 0.2, 0.7, 10)
    partner = PartyScores("partner", (0.3, 0.6, 0.7, 0.65), 0.3, 0.9, 0.5, 10)
    return front_of([host, partner])


def test_by_hand():
    front = example()
    assert front.on_front == (True, True, True, False)
    # gains over the plain ensemble: (.2, -.2), (.15, .1), (0, .2)
    assert [prefer(front, p) for p in PREFERENCES] == [0, 3, 6]
    assert [row["position"] for row in front.rows()] == [0, 3, 6]
    with pytest.raises(StitchError, match="own, balanced, partner"):
        prefer(front, "mine")


def test_the_mean_over_folds_is_by_position_and_output():
    def sweep(fold, add):
        return Sweep(fold, [2, 5, 9], ["a", "b", "c"], [add + .1, add + .2, add + .3], [add + .2] * 3, [add] * 3,
                     {"host": add, "partner": add, "ensemble": add}, 4)

    sweeps = [sweep(0, 0.1), sweep(1, 0.3)]
    scores = mean_over_folds("partner", sweeps, [5, 9])
    assert scores.values == (0.4, 0.5) and (scores.host, scores.cases) == (0.2, 8) and scores.gains == (0.2, 0.3)
    assert mean_over_folds("partner", sweeps, [5, 9], "host").values == (0.4, 0.4)


@pytest.mark.parametrize("partners", [1, 2])
def test_the_figure_is_drawn_for_one_partner_and_for_several(tmp_path, partners):
    front = example()
    host, partner = front.parties
    other = PartyScores("sweep_c", partner.values[::-1], 0.3, 0.9, 0.5, 10)
    front = front_of([host, *[partner, other][:partners]])
    path = positions_plane(json.loads(json.dumps(front.to_json())), 3, str(tmp_path / "pareto.png"), "balanced")
    with open(path, "rb") as f:
        assert f.read(8) == b"\x89PNG\r\n\x1a\n"


def test_the_figure_of_one_position_that_equals_the_ensemble(tmp_path):
    scores = [PartyScores(n, (0.5,), 0.5, 0.5, 0.5, 1) for n in ("host", "partner")]
    positions_plane(front_of(scores).to_json(), 0, str(tmp_path / "one.png"))
