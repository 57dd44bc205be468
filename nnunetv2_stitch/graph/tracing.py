"""A parent network -> torch.fx graph at layer level."""

from __future__ import annotations

import torch
from torch import fx, nn

from nnunetv2_stitch.errors import StitchError


def prepare(network: nn.Module) -> nn.Module:
    """Switch off what a traced graph cannot have, in place: deep supervision and in-place activations.

    An in-place activation overwrites the feature map that a stitch reads; computing it out of place gives the
    same numbers.
    """
    for module in network.modules():
        if getattr(module, "inplace", False):
            module.inplace = False
        if hasattr(module, "deep_supervision"):
            module.deep_supervision = False
    return network


def trace(network: nn.Module) -> fx.GraphModule:
    """Trace `network` (input `(B, C, *spatial)`, output logits `(B, K, *spatial)`), leaves being torch.nn modules.

    The result shares the parameters of `network`. Its module paths are the first of the up to four names that
    nnU-Net gives one tensor, the same that `network.named_parameters()` lists.

    Raises:
        StitchError: the network has data-dependent control flow or several outputs.
    """
    name = f"{type(network).__module__}.{type(network).__qualname__}"
    try:
        traced = fx.symbolic_trace(prepare(network))
    except Exception as error:  # torch.fx raises many kinds, all of them mean the same here
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise StitchError(f"network {name} cannot be traced ({reason}); stitching supports PlainConvUNet, "
                          f"ResidualEncoderUNet and ResidualUNet") from error
    inputs = [node for node in traced.graph.nodes if node.op == "placeholder"]
    if len(inputs) != 1 or not isinstance(traced.graph.output_node().args[0], fx.Node):
        raise StitchError(f"network {name} needs exactly one input and one output to be stitched")
    return traced


def spatial_dims(traced: fx.GraphModule) -> int:
    """Number of spatial dimensions (2 or 3) of the convolutions of a traced network."""
    for module in traced.modules():
        if isinstance(module, torch.nn.modules.conv._ConvNd):
            return len(module.kernel_size)
    raise StitchError("the network has no convolution, so there is nothing to stitch")
