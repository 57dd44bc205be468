import numpy as np
import pytest
import torch
from close import assert_same
from networks import build, ensemble, image, spec
from reference import naive_sweep

from nnunetv2_stitch.fitting.closed_form import DirectMatching
from nnunetv2_stitch.selection.sweep import sweep_heads
from nnunetv2_stitch.stitching.layers import mean_softmax_as_logits
from nnunetv2_stitch.stitching.runner import GraphRunner
from nnunetv2_stitch.stitching.setting import Setting


@pytest.mark.parametrize("dim,partner", [(2, {}), (2, {"kind": "ResidualEncoderUNet", "stages": 4}), (3, {"width": 4})])
@torch.no_grad()
def test_shared_prefixes_give_what_whole_forward_passes_give(dim, partner):
    specs = spec(dim=dim), spec(dim=dim, **partner)
    net = ensemble(*specs, networks=[build(s, seed) for seed, s in enumerate(specs)])
    x = image(dim)
    matching = DirectMatching(net)
    matching.update(x)
    matching.solve()
    net, x = net.double(), x.double()  # in single precision the two orders of adding differ in the last digits
    found = {position: (host, partner) for position, host, partner in sweep_heads(GraphRunner(net.joined), x,
                                                                                  net.positions)}
    for position, whole in zip(net.positions, naive_sweep(net, x, net.positions)):  # sets the output to both heads
        assert_same(mean_softmax_as_logits(found[position]), whole)
        net.apply_setting(Setting.average_at(position, output="host"))
        assert_same(found[position][0], net(x))
    net.apply_setting(Setting())
    assert_same(mean_softmax_as_logits(found[None]), net(x))
    assert np.ptp([float(found[p][0].sum()) for p in net.positions]) > 0


@torch.no_grad()
def test_a_sweep_over_some_positions_gives_the_same_as_over_all():
    net = ensemble(spec(), spec(), networks=[build(spec(), 0), build(spec(), 1)])
    x = image()
    every = {p: h for p, h, _ in sweep_heads(GraphRunner(net.joined), x, net.positions)}
    for position, host, _ in sweep_heads(GraphRunner(net.joined), x, [3, 11]):
        assert torch.equal(host, every[position])
