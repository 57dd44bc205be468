"""Where only shapes count nothing is drawn, and where values count they are nnU-Net's."""

import pytest
import torch
from networks import CHANNELS, CLASSES, spec
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from nnunetv2_stitch.stitching.description import build_parent
from nnunetv2_stitch.stitching.empty_weights import nothing_filled_on_meta


@pytest.mark.parametrize("kind", ["PlainConvUNet", "ResidualEncoderUNet", "ResidualUNet"])
def test_on_meta_a_network_is_the_one_that_is_built_elsewhere(kind):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with torch.device("meta"):
        empty = build_parent(spec(kind), CHANNELS, CLASSES)
    assert torch.equal(torch.get_rng_state(), before)
    built = build_parent(spec(kind), CHANNELS, CLASSES)
    described = spec(kind)
    torch.set_rng_state(before)
    stock = get_network_from_plans(described["network_class_name"], described["arch_kwargs"],
                                   described["_kw_requires_import"], CHANNELS, CLASSES, deep_supervision=False)
    assert str(empty) == str(built) and all(v.is_meta for v in empty.state_dict().values())
    assert {k: (v.shape, v.dtype) for k, v in empty.state_dict().items()} == {
        k: (v.shape, v.dtype) for k, v in built.state_dict().items()}
    assert all(torch.equal(v, built.state_dict()[k]) for k, v in stock.state_dict().items())


def test_nothing_is_filled_on_meta_only():
    with torch.device("meta"), nothing_filled_on_meta():
        assert torch.empty(3).fill_(2).is_meta
        assert torch.equal(torch.empty(3, device="cpu").fill_(2), torch.full((3,), 2.0, device="cpu"))
