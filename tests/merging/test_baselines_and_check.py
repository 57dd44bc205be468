"""Soups, and the judgement whether to merge or to stitch, on numbers known in advance."""

import math

import pytest
import torch
from close import assert_same
from points import SIZES, members

from nnunetv2_stitch.merging.atlas import Atlas
from nnunetv2_stitch.merging.baselines import greedy_soup, mixture, uniform
from nnunetv2_stitch.merging.check import ALL_PAIRS, Way, check_merge, judge, loss_barrier
from nnunetv2_stitch.merging.losses import divergence
from nnunetv2_stitch.selection.dice import mean_dice


def test_uniform_and_weighted_mixtures():
    two = members(2)
    atlas = Atlas(two)
    for name in SIZES:
        assert_same(mixture(atlas, uniform(atlas))[name], (two[0][name] + two[1][name]) / 2)
        assert_same(mixture(atlas, [1.0, 0.0])[name], two[0][name])


def test_greedy_soup_keeps_what_does_no_harm():
    helps = {(0, 1): 0.9, (0, 1, 2): 0.7, (0, 1, 3): 0.9}
    tried = []

    def score(weights):
        kept = tuple(i for i, w in enumerate(weights) if w)
        assert all(w in (0.0, 1 / len(kept)) for w in weights)
        tried.append(kept)
        return helps[kept]

    weights, best = greedy_soup([0.8, 0.6, 0.5, 0.4], score)
    assert weights == [1 / 3, 1 / 3, 0.0, 1 / 3] and best == 0.9 and tried == list(helps)
    assert greedy_soup([0.2, 0.5], lambda w: 0.4) == ([0.0, 1.0], 0.5)


def line(**values) -> Way:
    return Way("A", "B", **{"losses": (), "barrier": 0.0, "alike": 0.9, **values})


def test_judgement():
    assert loss_barrier((1.0, 1.0, 1.2, 1.0, 1.0)) == pytest.approx(0.2)
    assert loss_barrier((1.0, 0.5, 0.0, -0.5, -1.0)) == 0.0 and loss_barrier(()) == 0.0
    good = judge([line(losses=(0, 0, 0, 0, 0))])
    assert good.verdict == "merge" and good.sentence.startswith("Merge: ") and good.sentence.count("\n") == 0
    assert judge([line(), line(barrier=0.5)]).verdict == "stitch"
    unknown = line(barrier=float("nan"))
    assert judge([unknown]).verdict == judge([line(), unknown]).verdict == "stitch"
    assert "nothing in common" in judge([line(alike=0.02)]).sentence
    assert "no data" in judge([line()]).sentence


def test_lines_of_many_members():
    sizes = {"a.weight": 4}
    start = torch.randn(20, 20)
    many = [{n: start + 0.01 * torch.randn(20, 20) for n in sizes} for _ in range(ALL_PAIRS + 2)]
    assert len(check_merge(Atlas(many)).lines) == ALL_PAIRS + 1
    near = check_merge(Atlas(many[:3], {"a.weight": start}), lambda w: float((w["a.weight"] - start).square().sum()))
    assert near.verdict == "merge" and len(near.lines) == 3 and len(near.lines[0].losses) == 5
    assert abs(near.lines[0].delta_cosine) < 0.3 and near.table()[0]["loss at 0.5"] > 0
    assert check_merge(Atlas([{n: torch.randn(20, 20) for n in sizes} for _ in range(2)])).verdict == "stitch"


@pytest.mark.parametrize("regions", [False, True])
def test_divergence_is_torchs_kl_and_zero_at_the_target(regions):
    logits, other = torch.randn(2, 3, 4, 4).double(), torch.randn(2, 3, 4, 4).double()
    if regions:
        target = torch.distributions.Bernoulli(logits=other)
        wanted = torch.distributions.kl_divergence(target, torch.distributions.Bernoulli(logits=logits)).sum(1).mean()
        mean = target.probs
    else:
        target = torch.distributions.Categorical(logits=other.movedim(1, -1))
        here = torch.distributions.Categorical(logits=logits.movedim(1, -1))
        wanted, mean = torch.distributions.kl_divergence(target, here).mean(), torch.softmax(other, 1)
    assert_same(divergence(logits, mean, regions), wanted)
    assert abs(float(divergence(other, mean, regions))) < 1e-12


def test_mean_dice_leaves_out_what_no_case_has():
    nan = float("nan")
    assert mean_dice(torch.tensor([[0.5, nan, 1.0], [nan, nan, 0.0]]).numpy()) == pytest.approx(0.5)
    assert math.isnan(mean_dice(torch.full((2, 2), nan).numpy()))
