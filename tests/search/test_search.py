"""The search on losses whose optimum is known."""

import pytest
import torch
from points import SIZES, Points, Quadratic, members, merged

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.merging.atlas import Atlas
from nnunetv2_stitch.search.coefficients import SearchOptions, search


def problem(granularity="stage", wanted=None, count=3):
    atlas = Atlas(members(count), members(1, seed=9)[0], granularity)
    if wanted is None:
        wanted = torch.tensor([[0.9, -0.4, 0.2, 1.3], [0.3, 0.8, -0.7, 0.1], [-0.2, 0.5, 0.6, -0.3]],
                              dtype=torch.float64)[:count, :len(atlas.groups)]
    return atlas, Quadratic(atlas, Points(SIZES), merged(atlas, wanted)), wanted


@pytest.mark.parametrize("granularity", ["model", "stage", "tensor"])
def test_gradient_search_finds_the_optimum_also_where_it_is_negative(granularity):
    atlas, objective, wanted = problem(granularity)
    options = SearchOptions(steps=700, rate=0.05, patience=100)
    found = search(objective, atlas.coefficients([1 / 3] * 3), options)
    assert (wanted < 0).any()
    assert (found.coefficients - wanted).abs().max() < 1e-3


def test_around_the_mean_of_the_members_only_their_differences_count():
    """theta0 as the mean leaves one direction of c without effect, so the weights are compared, not c."""
    atlas = Atlas(members(3), None, "model")
    target = merged(atlas, torch.tensor([[1.4], [-0.6], [0.2]], dtype=torch.float64))
    found = search(Quadratic(atlas, Points(SIZES), target), atlas.coefficients([1 / 3] * 3),
                   SearchOptions(steps=700, patience=100))
    for name, value in merged(atlas, found.coefficients).items():
        torch.testing.assert_close(value, target[name], atol=1e-3, rtol=0)


def test_cmaes_finds_it_too_and_the_same_seed_finds_the_same():
    pytest.importorskip("cma")
    atlas, objective, wanted = problem("model")
    wanted = torch.tensor([[0.7], [-0.5], [0.4]], dtype=torch.float64)
    objective.target = merged(atlas, wanted)
    options = SearchOptions(steps=100, rate=0.3, patience=100, seed=3)
    first, second = (search(objective, atlas.coefficients([1 / 3] * 3), options, "cmaes") for _ in range(2))
    assert (first.coefficients - wanted).abs().max() < 1e-3
    assert (first.coefficients == second.coefficients).all()


def test_never_worse_than_the_start_and_stops_early():
    atlas, objective, wanted = problem()
    objective.score = lambda c: -float((c - start).abs().sum())  # anything but the start is worse
    start = atlas.coefficients([1 / 3] * 3)
    found = search(objective, start, SearchOptions(steps=100, checks=10, patience=2))
    assert found.step == 0 and (found.coefficients == start).all() and found.score == 0
    assert [h["step"] for h in found.history] == [10, 20] and objective.calls == 20


def test_a_batch_without_a_finite_loss_is_passed_over():
    atlas, objective, _ = problem()
    original, calls = objective.loss_and_gradient, []

    def sometimes(c):
        calls.append(c)
        loss, gradient = original(c)
        return (float("nan"), gradient * float("nan")) if len(calls) % 3 == 0 else (loss, gradient)

    objective.loss_and_gradient = sometimes
    found = search(objective, atlas.coefficients([1 / 3] * 3), SearchOptions(steps=60))
    assert torch.isfinite(found.coefficients).all() and found.step > 0


def test_bad_method_and_missing_package(monkeypatch):
    atlas, objective, _ = problem()
    start = atlas.coefficients([1 / 3] * 3)
    with pytest.raises(StitchError, match="search 'random' is not one of gradient, cmaes"):
        search(objective, start, method="random")
    monkeypatch.setitem(__import__("sys").modules, "cma", None)
    with pytest.raises(StitchError, match=r"needs the package cma: pip install"):
        search(objective, start, method="cmaes")
