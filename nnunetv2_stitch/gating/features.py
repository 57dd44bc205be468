"""Statistics of a network's first feature maps, before normalisation takes away what tells scanners apart."""

from __future__ import annotations

import numpy as np
import torch
from torch import fx, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.graph.nodes import layer_nodes
from nnunetv2_stitch.graph.tracing import trace

STAGES = 1  # whose first convolution is looked behind
NOISE = 0.05  # of a feature: what cutting tiles of another size out of an image changes, as measured on two heads
MOST_LOG_SPREAD = 20.0  # of a map that anything is to be told from
STD_FLOOR = 1e-3  # added to standard deviations: an image without contrast is far from all others, not infinitely far


def channel_statistics(maps: torch.Tensor) -> torch.Tensor:
    """Mean, then log standard deviation, per channel of maps `(B, C, *spatial)`, as `(B, 2 C)` in float32."""
    values = maps.flatten(2).float()
    mean = values.mean(2, keepdim=True)
    # As exact as `torch.var_mean`, which takes seven to twenty times as long on a CPU.
    deviation = (values - mean).square_().mean(2).sqrt()
    return torch.cat([mean.squeeze(2), torch.log(deviation + STD_FLOOR)], 1)


def noise_of(mean: np.ndarray) -> np.ndarray:
    """Standard deviation `(F,)` of what another size of tiles changes in `channel_statistics` of this mean: `NOISE` for
    a log standard deviation, and for a channel's mean that share of the channel's spread. Images are normalised, so
    that means hardly differ within a party, and the finest difference in padding would stand out."""
    spread = np.exp(np.minimum(mean[len(mean) // 2:], MOST_LOG_SPREAD))
    return NOISE * np.concatenate([spread, np.ones_like(spread)])


def first_convolutions(traced: fx.GraphModule, input_channels: int, stages: int = STAGES) -> dict[fx.Node, int]:
    """The first convolution of each of the first stages of a traced network, with its channels. A stage is what has
    the same cumulative stride."""
    modules, seen, found = dict(traced.named_modules()), set(), {}
    for node, layer in zip(traced.graph.nodes, layer_nodes(traced, input_channels)):
        module = modules[node.target] if node.op == "call_module" else None
        if isinstance(module, _ConvNd) and not isinstance(module, _ConvTransposeNd) and layer.stride not in seen:
            seen.add(layer.stride)
            found[node] = layer.channels
        if len(found) == stages:
            return found
    if not found:
        raise StitchError("the network has no convolution, so there are no features for a signature")
    return found


def feature_count(network: nn.Module, input_channels: int) -> int:
    """How many features a network has, which may lie on the meta device."""
    return 2 * sum(first_convolutions(trace(network), input_channels).values())


def probe(traced: fx.GraphModule, input_channels: int, stages: int = STAGES) -> tuple[fx.GraphModule, int]:
    """The part of a traced network that gives the features of images, and how many there are: input `(B, C,
    *spatial)`, output `(B, F)`, F twice the channels of `first_convolutions`. Its layers are those of `traced`.

    Statistics are taken right behind each convolution, because later layers may overwrite its map.
    """
    wanted = first_convolutions(traced, input_channels, stages)
    graph, copies, statistics = fx.Graph(), {}, []
    for node in traced.graph.nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
        if node in wanted:
            statistics.append(graph.call_function(channel_statistics, (copies[node],)))
        if len(statistics) == len(wanted):
            break
    graph.output(statistics[0] if len(statistics) == 1 else graph.call_function(torch.cat, (statistics, 1)))
    found = fx.GraphModule(traced, graph, "Probe")
    found.graph.eliminate_dead_code()
    found.delete_all_unused_submodules()
    found.recompile()
    return found.eval(), 2 * sum(wanted.values())
