import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.selection.retention import retained

SCORE = st.one_of(st.just(math.nan), st.sampled_from([i / 20 for i in range(21)]))  # ties and missing cases are common


@st.composite
def paths(draw, with_reference: bool = True):
    points, cases = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    scores = draw(arrays(float, (points, cases), elements=SCORE))
    scores[draw(st.integers(0, points - 1)), draw(st.integers(0, cases - 1))] = draw(st.sampled_from([0., .5, 1.]))
    reference = draw(arrays(float, (cases,), elements=SCORE))
    reference[draw(st.integers(0, cases - 1))] = .5
    return scores, draw(st.sampled_from([None, reference])) if with_reference else None


def qualifies(first, second, tolerance: float) -> bool:
    pairs = [(a, b) for a, b in zip(first, second) if not (math.isnan(a) or math.isnan(b))]
    if not pairs:
        return False
    values = [a - b for a, b in pairs]
    mean = sum(values) / len(values)
    variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1) if len(values) > 1 else 0.
    return mean <= tolerance * math.sqrt(variance / len(values)) + 1e-9


@given(paths(), st.sampled_from([0., .5, 1., 3.]))
def test_the_first_point_that_cannot_be_told_from_the_best_and_from_the_host_alone(path, tolerance):
    scores, reference = path
    found = retained(scores, reference, tolerance)
    with_scores = [i for i, row in enumerate(scores) if not np.isnan(row).all()]
    assert np.nanmean(scores[found.best]) == pytest.approx(max(np.nanmean(scores[i]) for i in with_scores))
    allowed = [i for i, row in enumerate(scores) if qualifies(scores[found.best], row, tolerance)
               and (reference is None or qualifies(reference, row, tolerance))]
    assert found.index == (allowed[0] if allowed else with_scores[-1])
    elsewhere = retained(scores, reference, tolerance, host_at_end=False)
    assert elsewhere.index == (found.index if allowed else found.best)
    assert ("host's end" in found.reason) == (not allowed) == (not found.reached)


@given(paths(with_reference=False))
def test_no_point_without_a_score_is_chosen_and_none_behind_the_best(path):
    found = retained(*path)
    assert not np.isnan(path[0][found.index]).all() and found.index <= found.best


@given(paths(), st.floats(0, 2), st.floats(0, 2))
def test_more_tolerance_keeps_no_less_of_the_partner_than_less(path, one, other):
    scores, _ = path
    assert retained(scores, None, max(one, other)).index <= retained(scores, None, min(one, other)).index


@given(arrays(float, (4, 1), elements=st.floats(0, 1)))
def test_one_case_has_no_spread_so_only_the_best_score_qualifies(scores):
    found = retained(scores, tolerance=5.)
    assert scores[found.index, 0] >= scores.max() - 1e-8 and set(found.standard_errors) == {0.}


def test_a_constant_loss_has_no_spread_however_small_it_is():
    best = np.array([.7, .8, .9])
    assert retained(np.stack([best - .01, best]), tolerance=3.).index == 1


def test_a_loss_that_one_case_alone_makes_is_within_its_standard_error():
    best = np.array([.7, .8, .9, .8])
    assert retained(np.stack([best - [.1, 0, 0, 0], best])).index == 0


@pytest.mark.parametrize("scores, reference, tolerance, what", [
    ([[math.nan, math.nan]], None, 1., "no case has a score"),
    ([[.5, .5]], [math.nan, math.nan], 1., "host alone"),
    ([[.5, .5]], None, math.nan, "-tolerance"),
    ([[.5, .5]], None, -1., "-tolerance"),
    (np.zeros((0, 0)), None, 1., "no case has a score"),
])
def test_where_there_is_nothing_to_choose_by_one_line_says_so(scores, reference, tolerance, what):
    with pytest.raises(StitchError, match=what) as told:
        retained(np.array(scores), None if reference is None else np.array(reference), tolerance)
    assert "\n" not in str(told.value)


@given(paths(), st.sampled_from([0., 1.]))
def test_behind_a_gate_the_host_alone_is_all_that_is_to_be_reached(path, tolerance):
    scores, reference = path
    if reference is None:
        return
    found = retained(scores, reference, tolerance, near_best=False)
    near = [qualifies(reference, row, tolerance) for row in scores]
    assert found.reached == any(near) and "the best and of" not in found.reason
    if any(near):
        assert found.index == near.index(True)
    else:
        assert found.index == max(i for i, row in enumerate(scores) if not np.isnan(row).all())

