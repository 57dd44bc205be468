"""What a gated pass computes, in multiplications, beside both bare parents."""

import pytest
import torch
from gating.test_gate import OPTIONS, gated
from networks import build, image, spec
from torch.utils.flop_counter import FlopCounterMode

from nnunetv2_stitch.stitching.setting import Setting


def count(*networks, x: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        for network in networks:
            network(x)
    return counter.get_total_flops()


@pytest.mark.parametrize("dim", [2, 3])
def test_an_own_image_costs_one_network_and_another_hardly_more_than_two(dim):
    """At most 0.6 of the two bare parents where one answers wholly, at most 1.1 where all do, whatever is measured for
    the gate."""
    specs = [spec(dim=dim, stages=4, width=8)] * 2
    parents = [build(s, seed) for seed, s in enumerate(specs)]
    net, _ = gated(parents, specs, OPTIONS, Setting.average_at(9))
    x = image(dim, batch=1, size=32 if dim == 2 else 16)
    bare = count(*parents, x=x)
    measured = net.gated.shares

    def given(*row):
        def shares(x):
            return torch.tensor([row]) + 0 * measured(x)  # what the gate looks at is computed, too
        net.gated.shares = shares
        return count(net, x=x) / bare

    assert 0.5 < given(1.0, 0.0) <= 0.6 and 0.5 < given(0.0, 1.0) <= 0.6
    assert 1 < given(0.7, 0.3) <= 1.1 and 1 < given(0.5, 0.5) <= 1.1
