"""Maps on another grid: where they lie, what beyond the edge is, and that stitches are fitted across grids."""

import pytest
import torch
from close import assert_same
from networks import spec

from nnunetv2_stitch.bridging.bridge import Bridge, Intensity
from nnunetv2_stitch.fitting.closed_form import DirectMatching
from nnunetv2_stitch.fitting.cutting import best_cuts
from nnunetv2_stitch.fitting.double_batched import double_batched_loss
from nnunetv2_stitch.graph import layer_nodes, match_layers, trace
from nnunetv2_stitch.pipeline.memory import step_bytes
from nnunetv2_stitch.stitching.description import build_parent
from nnunetv2_stitch.stitching.layers import Heads, ask_host, share_out_background
from nnunetv2_stitch.stitching.network import StitchedEnsemble
from nnunetv2_stitch.stitching.regrid import Geometry, InputBridge, OutputBridge, Regrid, resample
from nnunetv2_stitch.stitching.setting import Setting


def bridge(ratio=(1.0, 1.0), axes=(0, 1), multiple=(1, 1), channels=(0,), intensities=(Intensity(),),
           outputs=((0,), (1,), (2,))):
    return Bridge(len(channels), 3, channels, intensities, axes, ratio, multiple, outputs)


def ramp(*size):
    return torch.stack(torch.meshgrid(*(torch.arange(s, dtype=torch.float32) + 0.5 for s in size), indexing="ij"))[None]


@pytest.mark.parametrize("order", [1, 3])
def test_positions_are_kept(order):
    """A ramp of positions in mm stays one, on a finer and on a coarser grid."""
    for factor, size in ((0.5, 40), (1.25, 16), (1 / 1.3, 26)):
        out = resample(ramp(20, 20), (factor, 1), (size, 20), order)
        wanted = (torch.arange(size) + 0.5) * factor
        inside = (wanted > 3) & (wanted < 17)
        if order == 3:
            assert torch.allclose(out[0, 0, inside, 0], wanted[inside], atol=2e-2)
        else:
            assert_same(out[0, 0, inside, 0], wanted[inside])


def test_same_factor_crops_and_repeats_the_edge():
    x = ramp(6, 6)
    assert torch.equal(resample(x, (1, 1), (4, 6)), x[:, :, :4])
    longer = resample(x, (1, 1), (8, 6))
    assert torch.equal(longer[:, :, :6], x) and torch.equal(longer[:, :, 7], x[:, :, 5])


def test_input_is_padded_with_zeros_to_the_partners_multiple():
    b = bridge(ratio=(1.3, 1.0), multiple=(8, 16))
    out = InputBridge(b)(torch.ones(1, 1, 20, 20))
    assert out.shape == (1, 1, 32, 32)
    assert out[0, 0, :26, :20].min() > 0.99 and out[0, 0, 26:].abs().max() == 0 and out[0, 0, :, 20:].abs().max() == 0


def test_there_and_back():
    b = bridge(ratio=(2.0, 1.25), axes=(1, 0), multiple=(16, 16))
    x = ramp(32, 24)
    seen = InputBridge(bridge(b.ratio, b.axes, b.multiple, (0, 1), (Intensity(),) * 2))(x)
    assert seen.shape[2:] == (48, 48) == tuple(Geometry(b).partner_size((32, 24)))
    back = OutputBridge(bridge(b.ratio, b.axes, b.multiple, outputs=((0,), (1,))))(seen, x)
    assert back.shape == x.shape and (back - x)[:, :, 2:-2, 2:-2].abs().max() < 0.05


def test_feature_maps_meet_on_either_grid():
    b = bridge(ratio=(1.5, 0.75), multiple=(4, 4))
    x = ramp(32, 32)
    host = resample(x, (2, 2), (16, 16))  # a layer of stride 2
    seen = InputBridge(bridge(b.ratio, b.axes, b.multiple, (0, 1), (Intensity(),) * 2))(x)
    partner = resample(seen, (2, 2), (24, 12))
    on_host = Regrid(b, "host", (2, 2), (2, 2))(partner, x)
    on_partner = Regrid(b, "partner", (2, 2), (2, 2))(host, x)
    assert on_host.shape == host.shape and on_partner.shape == partner.shape
    assert (on_host - host)[:, :, 3:-3, 3:-3].abs().max() < 0.1
    assert (on_partner - partner)[:, :, 3:-3, 3:-3].abs().max() < 0.1


def test_prediction_and_training_share_nothing_that_hurts():
    """nnU-Net predicts in inference mode, whose tensors can take no part in training."""
    with torch.inference_mode():
        resample(torch.zeros(1, 1, 11, 11), (0.7, 0.7), (16, 16), 3)
    x = torch.zeros(1, 1, 11, 11, requires_grad=True)
    resample(x, (0.7, 0.7), (16, 16), 3).sum().backward()
    assert x.grad is not None


def test_intensities():
    x = torch.linspace(-3, 3, 50).reshape(1, 1, 5, 10)
    out = InputBridge(bridge(intensities=(Intensity(2.0, 1.0, -1.0, 4.0),)))(x)
    assert torch.equal(out, (2 * x + 1).clamp(-1, 4))
    scored = InputBridge(bridge(intensities=(Intensity(per_patch="zscore"),)))(5 * x + 2)
    assert scored.mean().abs() < 1e-5 and abs(float(scored.std()) - 1) < 1e-5
    ranged = InputBridge(bridge(intensities=(Intensity(per_patch="range"),)))(x)
    assert (float(ranged.min()), float(ranged.max())) == (0, 1)


def test_outputs_are_renamed_joined_and_silent():
    logits = torch.randn(2, 3, 4, 4)
    out = OutputBridge(bridge(outputs=((0,), (1, 2), ())))(logits, torch.zeros(2, 1, 4, 4))
    ours, theirs = out.softmax(1), logits.softmax(1)
    assert_same(ours[:, 1], theirs[:, 1] + theirs[:, 2])
    assert ours[:, 2].max() < 1e-30


def test_background_is_shared_out():
    host, partner = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    partner[:, 3] = -100.0
    filled = share_out_background(partner, host, (3,)).softmax(1)
    before, h = partner.softmax(1), host.softmax(1)
    assert_same(filled[:, 0] + filled[:, 3], before[:, 0])  # nothing is made up
    assert_same(filled[:, 3] / filled[:, 0], h[:, 3] / h[:, 0])
    assert_same(filled[:, 1:3], before[:, 1:3])
    both = Heads(unknown=[(3,)])(host, partner).softmax(1)
    assert_same(both, (h + filled) / 2)
    assert torch.equal(ask_host(partner, host, (3,))[:, 3], host[:, 3])


def supernet(ratio, multiple=(8, 8)):
    """The same network as both parents, the partner on another grid."""
    one = spec(stages=3, width=4)
    nodes = layer_nodes(trace(build_parent(one, 1, 3)), 1)
    matches = [vars(m) for m in match_layers(nodes, nodes, ratio=ratio)]
    b = bridge(ratio=ratio, multiple=multiple)
    torch.manual_seed(0)
    network = StitchedEnsemble(1, 3, [one, one], matches, supernet=True, bridges=[b.to_json()])
    network.partner.load_state_dict(network.host.state_dict())
    return network


def smooth(batch=2, size=48):
    coarse = torch.randn(batch, 1, size // 8, size // 8)
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic")


def test_stitches_are_fitted_across_grids():
    network = supernet((1.25, 1.25))
    matching = DirectMatching(network)
    torch.manual_seed(1)
    for _ in range(4):
        matching.update(smooth())
    r2 = matching.solve()
    assert len(r2) == len(network.positions) and all(0 < min(r) <= 1 for r in r2.values())
    # The same network: early layers are nearly the same, the decoder's fine detail is another on another grid.
    assert min(r2[0]) > 0.9 and sum(map(sum, r2.values())) / len(r2) / 2 > 0.4
    x = smooth()
    double_batched_loss(network, x).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.stitch_parameters())
    # The estimate of the memory goes through the same bridges.
    kept = network.without_memory()
    assert step_bytes(kept, x.shape, best_cuts(kept, x.shape)) < 0.8 * step_bytes(kept, x.shape)


def test_deployed_equals_supernet_across_grids():
    network = supernet((1.25, 0.8))
    x = smooth()
    for setting in (Setting(), Setting.average_at(3), Setting({2: ("stitched", "own")}, "host"), Setting({}, "partner"),
                    Setting.average_at(*network.positions)):
        network.apply_setting(setting)
        deployed = network.deployed(setting)
        with torch.no_grad():
            assert_same(network(x), deployed(x))
        copy = StitchedEnsemble(1, 3, network.parents, network.matches, bridges=network.bridges)
        copy.load_state_dict(deployed.state_dict())
        with torch.no_grad():
            assert torch.equal(copy(x), deployed(x))


@pytest.mark.slow
def test_torch_compile_sees_one_graph():
    network = supernet((1.25, 0.8))
    setting = Setting.average_at(3)
    network.apply_setting(setting)
    deployed, x = network.deployed(setting), smooth()
    compiled = torch.compile(deployed, backend="eager", fullgraph=True)  # fullgraph: an error at the first break
    with torch.inference_mode():
        assert torch.equal(compiled(x), deployed(x))
