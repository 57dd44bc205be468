import pytest
import torch
from networks import KINDS, build, image, spec
from torch import nn

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.graph import features, layer_nodes, trace


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_traced_network_computes_the_same_to_the_last_bit(kind, dim):
    network = build(spec(kind, dim))
    x = image(dim)
    with torch.no_grad():
        before = network(x)
        assert torch.equal(trace(network)(x), before)


def test_deep_supervision_is_switched_off():
    network = build(spec())
    network.decoder.deep_supervision = True
    assert trace(network)(image()).shape == (2, 3, 16, 16)


def test_untraceable_network_is_refused_by_name():
    class Branches(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(StitchError, match="Branches cannot be traced"):
        trace(Branches())


def test_unknown_layer_is_refused_by_its_path():
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ChannelShuffle(2), nn.Conv2d(4, 2, 1))
    with pytest.raises(StitchError, match="layer 1 .*ChannelShuffle"):
        layer_nodes(trace(network), 1)


def test_plain_five_stage_network_has_62_positions():
    nodes = layer_nodes(trace(build(spec(stages=5))), 1)
    assert sum(n.stitchable for n in nodes) == 62


@pytest.mark.parametrize("kind", KINDS)
def test_channels_and_strides_are_those_of_the_real_feature_maps(kind):
    network = build(spec(kind, stages=4))
    traced = trace(network)
    maps = {}

    class Recorder(torch.fx.Interpreter):
        def run_node(self, node):
            maps[node.name] = super().run_node(node)
            return maps[node.name]

    Recorder(traced).run(image(size=32))
    for node in layer_nodes(traced, 1):
        assert maps[node.name].shape[1:] == (node.channels, *(32 / s for s in node.stride)), node.name


def test_progress_increases_along_every_edge():
    traced = trace(build(spec("ResidualEncoderUNet", stages=4)))
    progress = {n.name: n.progress for n in layer_nodes(traced, 1)}
    for node in traced.graph.nodes:
        assert all(progress[i.name] < progress[node.name] for i in node.all_input_nodes)


def test_features_by_module_path_match_a_hook_and_survive_in_place_activations():
    network = build(spec())
    conv = network.encoder.stages[0][0].convs[0].conv
    x = image()
    found = features(network, ["decoder.stages.1", "encoder.stages.0.0.convs.0.conv"], x)
    assert torch.equal(found["encoder.stages.0.0.convs.0.conv"], conv(x))
    seen = []
    handle = network.decoder.stages[1].register_forward_hook(lambda m, i, o: seen.append(o.clone()))
    network(x)
    handle.remove()
    assert torch.equal(found["decoder.stages.1"], seen[0])


def test_features_stop_after_the_last_wanted_layer_and_remove_their_hooks():
    network = build(spec())
    calls = []
    network.decoder.seg_layers[-1].register_forward_hook(lambda *a: calls.append(1))
    features(network, ["encoder.stages.1"], image())
    assert calls == []
    assert not network.encoder.stages[1]._forward_hooks


def test_features_name_an_unknown_module():
    with pytest.raises(StitchError, match="decoder.stages.9"):
        features(build(spec()), ["decoder.stages.9"], image())


def test_features_name_a_module_that_is_not_reached():
    with pytest.raises(StitchError, match="seg_layers.0"):
        features(build(spec()), ["decoder.seg_layers.0"], image())
