import math

import numpy as np
import pytest

from nnunetv2_stitch.evaluation.statistics import (
    PairedTest,
    compare_with_host,
    from_json,
    holm,
    interval,
    summarise,
    to_json,
    too_few,
)

KEYS = {"party": "A", "label": "a", "measure": "dice"}


def test_holm_by_hand():
    """0.01 x 4, 0.02 x 3, then 0.03 x 2 = 0.06 and 0.04, which may not fall below it."""
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_leaves_out_what_could_not_be_tested():
    corrected = holm([math.nan, 0.02, 0.03])
    assert math.isnan(corrected[0]) and corrected[1:] == pytest.approx([0.04, 0.04])


def test_interval_is_the_normal_one_for_normal_values():
    """Of 400 values the bootstrap must give about mean +- 1.96 s / sqrt(n)."""
    values = np.random.default_rng(0).normal(0.8, 0.05, 400)
    half = 1.96 * values.std(ddof=1) / 20
    assert interval(values, 1, 4000) == pytest.approx((values.mean() - half, values.mean() + half), abs=6e-4)


def test_interval_follows_the_seed_and_its_own_values_only():
    values = [0.7, 0.8, 0.83, 0.9, 0.6, 0.85]
    assert interval(values, 1, 500) == interval(values, 1, 500)
    assert interval(values, 1, 500) != interval(values, 2, 500)


def test_interval_of_few_or_equal_values():
    assert np.isnan(interval([], 1, 100)).all() and np.isnan(interval([0.5], 1, 100)).all()
    assert interval([0.5, 0.5, 0.5], 1, 100) == (0.5, 0.5)
    low, high = interval([0.5, 0.9], 1, 100)
    assert 0.5 <= low <= high <= 0.9
    low, high = interval([0.9] * 20 + [0.1], 1, 200)
    assert np.isfinite([low, high]).all() and low < 0.87 <= high


def test_summary_leaves_out_what_is_not_defined():
    s = summarise([0.8, math.nan, 0.6, 0.0], ["", "both", "", "prediction"], 1, 100, model="m", **KEYS)
    assert (s.n, s.cases, s.one_sided) == (3, 4, 1)
    assert s.mean == pytest.approx(1.4 / 3)
    assert math.isnan(summarise([math.nan], ["both"], 1, 100, model="m", **KEYS).mean)


def test_paired_test_by_hand():
    """Seven pairs that all gain have two-sided p = 2 / 2^7; with three models Holm takes it three times."""
    host = np.linspace(0.5, 0.6, 7)
    gain = 0.01 * np.arange(1, 8)
    models = {"up": host + gain, "down": host - gain, "same": host}
    tests = {t.model: t for t in compare_with_host(host, models, **KEYS)}
    assert tests["up"].p == tests["down"].p == pytest.approx(2 / 2**7)
    assert tests["up"].p_holm == pytest.approx(3 * 2 / 2**7)
    assert tests["up"].significant and tests["up"].difference == pytest.approx(0.04)
    assert tests["same"].p == 1.0 and tests["same"].difference == 0.0 and not tests["same"].significant


def test_pairs_need_both_values():
    host = np.array([0.5, math.nan, 0.7, 0.8])
    test, = compare_with_host(host, {"m": [0.6, 0.6, math.nan, 0.9]}, **KEYS)
    assert test.n == 2 and test.difference == pytest.approx(0.1)
    none, = compare_with_host(host, {"m": [math.nan] * 4}, **KEYS)
    assert none.n == 0 and math.isnan(none.p) and math.isnan(none.p_holm) and not none.significant


def test_rounding_is_no_difference():
    host = np.full(8, 0.3)
    test, = compare_with_host(host, {"m": host + np.array([1, -1, 1, 1, 1, 1, 1, 1]) * 1e-16}, **KEYS)
    assert test.p == 1.0


@pytest.mark.parametrize(("n", "models", "enough"), [(5, 1, False), (6, 1, True), (6, 2, False), (7, 3, True),
                                                     (9, 19, False), (10, 19, True)])
def test_too_few_cases_is_said_exactly_where_no_values_could_do(n, models, enough):
    assert bool(too_few(n, models)) is not enough
    gain = 0.01 * np.arange(1, n + 1)  # the clearest that there can be, for one model among equals
    values = {"best": gain, **{f"m{i}": np.where(np.arange(n) % 2, gain, -gain[::-1]) for i in range(models - 1)}}
    best = compare_with_host(np.zeros(n), values, **KEYS)[0]
    assert best.significant is enough
    assert bool(best.remark) is not enough


def test_json_knows_no_nan():
    t = PairedTest("m", **KEYS, n=0, difference=math.nan, p=math.nan, p_holm=math.nan)
    value = to_json(t)
    assert value["p"] is None
    assert math.isnan(from_json(PairedTest, value).p)
