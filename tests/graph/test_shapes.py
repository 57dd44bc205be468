"""Every shape that is derived from a network's layers is that of the real map, whatever the input's size, and a traced
network computes what the network computes."""

import copy
import warnings

import pytest
import torch
from any_networks import Classifier, Overwriting, Segmenter, Unpadded, made, vectors
from torch import fx, nn

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.graph import layer_nodes, trace
from nnunetv2_stitch.graph.propagation import shapes_of
from nnunetv2_stitch.graph.shapes import PROBES

OWN = [("classifier", lambda: made(Classifier), 1, 0), ("unpadded", lambda: made(Unpadded), 1, 0),
       ("segmenter", lambda: made(Segmenter), 1, 0), ("interpolating", lambda: made(Segmenter, transposed=False), 1, 0),
       ("overwriting", lambda: made(Overwriting), 1, 0),
       ("pooling", lambda: nn.Sequential(nn.ReflectionPad2d(2), nn.Conv2d(1, 4, 5, 2, dilation=2), nn.PixelShuffle(2),
                                         nn.AvgPool2d(3, 2, 1, ceil_mode=True), nn.Conv2d(1, 3, 3, padding="same"),
                                         nn.Upsample(scale_factor=1.5), nn.Softmax(1)), 1, 0)]


def torchvision_network(name: str):
    models = pytest.importorskip("torchvision.models")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(models, name)(weights=None).eval()


def monai_network(name: str, *arguments, **more):
    return getattr(pytest.importorskip("monai.networks.nets"), name)(*arguments, **more).eval()


# The last number: how many layers cannot be followed.
OTHERS = [(n, lambda n=n: torchvision_network(n), 3, lost) for n, lost in (
    ("resnet18", 0), ("mobilenet_v3_small", 0), ("squeezenet1_0", 0), ("vgg11", 0), ("regnet_y_400mf", 0))] + [
    ("UNet", lambda: monai_network("UNet", 2, 1, 3, (8, 16, 32), (2, 2), num_res_units=2), 1, 0),
    ("SegResNet", lambda: monai_network("SegResNet", 2, 8, 1, 3), 1, 0),
    ("AttentionUnet", lambda: monai_network("AttentionUnet", 2, 1, 3, (8, 16), (2,)), 1, 0),
    ("DenseNet121", lambda: monai_network("DenseNet121", 2, 1, 3), 1, 0)]


def check(make, channels: int, lost: int, sizes) -> None:
    network = make()
    traced = trace(copy.deepcopy(network))
    nodes = layer_nodes(traced, channels, unknown="leave_out")
    assert sum(v is None for v in shapes_of(traced, channels, 2).values()) == lost
    for size in sizes:
        maps = {}

        class Recorder(fx.Interpreter):
            def run_node(self, node, maps=maps):
                maps[node.name] = super().run_node(node)
                return maps[node.name]

        x = torch.randn(2, channels, size, size)
        with torch.no_grad():
            assert torch.equal(Recorder(traced).run(x), network(x.clone()))
        for node in (n for n in nodes if n.stitchable):
            expected = (node.channels, *(s[PROBES.index(size)] for s in node.sizes))
            assert tuple(maps[node.name].shape[1:]) == expected, node.name


@pytest.mark.parametrize(("make", "channels", "lost"), [c[1:] for c in OWN], ids=[c[0] for c in OWN])
def test_shapes_of_ordinary_layers(make, channels, lost):
    check(make, channels, lost, (64, 80) if make()(torch.zeros(1, 1, 64, 64)).ndim > 2 else (64, 77))


@pytest.mark.slow
@pytest.mark.parametrize(("make", "channels", "lost"), [c[1:] for c in OTHERS], ids=[c[0] for c in OTHERS])
def test_shapes_of_known_networks(make, channels, lost):
    check(make, channels, lost, (64, 96) if channels == 1 else (64, 91))


def test_networks_of_vectors():
    nodes = layer_nodes(trace(vectors(5)), 7)
    assert [(n.channels, n.stride) for n in nodes if n.stitchable] == [(c, ()) for c in (5, 5, 5, 10, 10)]


def test_the_module_in_which_tracing_stops_is_named():
    class Choosing(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(StitchError, match=r"Sequential cannot be traced: torch.fx stops in its module 1 \(.*Choosing"):
        trace(nn.Sequential(nn.Conv2d(1, 2, 1), Choosing()))
