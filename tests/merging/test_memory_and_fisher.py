"""What a step of the search allocates, by the benchmark's own measure; and Fisher merging."""

from types import SimpleNamespace

import pytest
import torch
from close import assert_same
from merging import Steps, peak
from networks import build, spec

from nnunetv2_stitch.merging.atlas import Atlas
from nnunetv2_stitch.merging.baselines import FISHER_FLOOR, _fisher, fisher_merge


def test_memory_of_a_step_does_not_grow_with_the_number_of_members():
    two, eight = (peak(Steps(count, 2, 1, "cpu").ours, "cpu") for count in (2, 8))
    assert 0 < eight <= 1.001 * two
    steps = Steps(2, 2, 1, "cpu")
    assert peak(steps.autograd, "cpu") > two


@pytest.fixture(params=[False, True], ids=["labels", "regions"])
def objective(request):
    nets = [build(spec()) for _ in range(3)]
    atlas = Atlas([{n: p.detach().clone() for n, p in net.named_parameters()} for net in nets[:2]])
    return SimpleNamespace(atlas=atlas, network=nets[2], labels=SimpleNamespace(has_regions=request.param),
                           centre=SimpleNamespace(deep_supervision=lambda on: None), device=torch.device("cpu"),
                           fixed=[{"data": torch.randn(2, 1, 32, 32)}])


def test_fisher_merging_is_the_weighted_mean_of_its_definition(objective):
    merged = fisher_merge(objective)
    generator, weights = torch.Generator().manual_seed(0), []
    for i in range(2):
        objective.atlas.write_member(objective.network, i)
        found = _fisher(objective, generator)
        assert sum(float(v.sum()) for v in found.values()) > 0
        mean = sum(float(v.sum()) for v in found.values()) / sum(v.numel() for v in found.values())
        weights.append({n: v + FISHER_FLOOR * mean for n, v in found.items()})
    a, b = objective.atlas.members
    for n, value in merged.items():
        wanted = (weights[0][n] * a[n] + weights[1][n] * b[n]) / (weights[0][n] + weights[1][n])
        torch.testing.assert_close(value, wanted, rtol=1e-3, atol=1e-5)
        assert (value <= torch.maximum(a[n], b[n]) + 1e-6).all()


def test_fisher_merging_of_twins_changes_nothing(objective):
    objective.atlas.members[1] = objective.atlas.members[0]
    for n, value in fisher_merge(objective).items():
        assert_same(value, objective.atlas.members[0][n])
