"""theta(c), its gradient, its groups, and what is refused."""

import pytest
import torch
from close import assert_same
from networks import build, spec
from points import SIZES, Points, members, merged

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.merging.atlas import Atlas
from nnunetv2_stitch.merging.groups import group_of


def test_corners_and_mean():
    three = members(3)
    base = members(1, seed=9)[0]
    for around in (None, base):
        atlas, network = Atlas(three, around), Points(SIZES)
        for i, member in enumerate(three):
            atlas.write(network, atlas.coefficients([float(i == k) for k in range(3)]))
            for name, p in network.named_parameters():
                assert_same(p, member[name])
            atlas.write_member(network, i)
            assert all((p == member[n]).all() for n, p in network.named_parameters())
        mean = merged(atlas, atlas.coefficients([1 / 3] * 3))
        for name in SIZES:
            assert_same(mean[name], sum(m[name] for m in three) / 3)
    assert all((merged(atlas, atlas.coefficients([0, 0, 0]))[n] == base[n]).all() for n in SIZES)


@pytest.mark.parametrize("granularity, groups", [("model", 1), ("stage", 4), ("tensor", 4)])
def test_negative_coefficients_and_groups(granularity, groups):
    two, base = members(2), members(1, seed=9)[0]
    atlas = Atlas(two, base, granularity)
    assert len(atlas.groups) == groups
    c = torch.randn(2, groups, dtype=torch.float64)
    for k, name in enumerate(SIZES):
        g = 0 if groups == 1 else k
        wanted = base[name] + sum(float(c[i, g]) * (two[i][name] - base[name]) for i in range(2))
        assert_same(merged(atlas, c)[name], wanted)


@pytest.mark.parametrize("granularity", ["model", "stage", "tensor"])
@pytest.mark.parametrize("with_base", [False, True])
def test_gradient_by_dot_products_is_autograds_through_the_merge(granularity, with_base):
    nets = [build(spec()).double() for _ in range(4)]  # in float32 InstanceNorm makes more of rounding
    states = [{n: p.detach().clone() for n, p in net.named_parameters()} for net in nets]
    network = nets[3]
    atlas = Atlas(states[:3], states[3] if with_base else None, granularity)
    c = torch.randn(3, len(atlas.groups), dtype=torch.float64) * 0.4 + 0.3
    x = torch.randn(2, 1, 32, 32, dtype=torch.float64)

    atlas.write(network, c)
    network.zero_grad()
    network(x).square().mean().backward()
    ours = atlas.gradient(network)

    free = c.clone().requires_grad_()
    merged = {n: atlas.base[n] + sum(free[i, g] * (atlas.members[i][n] - atlas.base[n]) for i in range(3))
              for n, g in zip(atlas.names, atlas.index)}
    torch.func.functional_call(network, merged, (x,)).square().mean().backward()
    assert_same(ours, free.grad, units=1e6)


def test_stages():
    names = {"encoder.stages.0.0.convs.0.conv.weight": "encoder 0", "decoder.transpconvs.1.weight": "decoder 1",
             "decoder.stages.1.convs.0.norm.bias": "decoder 1", "decoder.seg_layers.2.weight": "heads",
             "encoder.stem.convs.0.conv.weight": "encoder 0", "stem.proj.weight": "stem proj", "bias": "bias"}
    for name, group in names.items():
        assert group_of(name, "stage") == group
    assert {group_of(n, "model") for n in names} == {"whole network"}


def test_what_cannot_be_merged_is_named():
    good, other = members(2)
    wrong = {**{n: v for n, v in other.items() if n != "decoder.stages.0.weight"},
             "encoder.stages.1.weight": torch.zeros(6), "more": torch.zeros(1)}
    with pytest.raises(StitchError, match=r"A and B .* encoder.stages.1.weight is \(5,\) and \(6,\), "
                                          r"decoder.stages.0.weight is \(6,\) and missing, more is missing and \(1,\)"):
        Atlas([good, wrong], labels=["A", "B"])
    with pytest.raises(StitchError, match="the base"):
        Atlas([good, other], wrong)
    with pytest.raises(StitchError, match="at least two"):
        Atlas([good])
    with pytest.raises(StitchError, match="granularity"):
        Atlas([good, other], granularity="layer")
