"""Stitches, switches and the head that joins both parents' answers. One code path for 2d and 3d."""

from __future__ import annotations

import math

import torch
from dynamic_network_architectures.building_blocks.helper import convert_dim_to_conv_op
from torch import nn
from torch.nn import functional as F


class Switch(nn.Module):
    """The multiplexer behind a matched layer of one parent, with the stitch that feeds it from the other.

    The stitch is a 1x1 convolution with bias, `(B, C_other, *spatial) -> (B, C_own, *spatial)`. States: `own` passes
    the parent's own map, `stitched` the translated map of the other parent, `average` the mean of the two.
    """

    def __init__(self, dims: int, other_channels: int, own_channels: int):
        super().__init__()
        self.stitch = convert_dim_to_conv_op(dims)(other_channels, own_channels, kernel_size=1, bias=True)
        self.state = "own"

    def forward(self, own: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return own if self.state == "own" else self.choose(own, self.stitch(other))

    def choose(self, own: torch.Tensor, stitched: torch.Tensor) -> torch.Tensor:
        if self.state == "own":
            return own
        return stitched if self.state == "stitched" else torch.lerp(own, stitched, 0.5)

    @torch.no_grad()
    def set_affine(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        """Set the stitch to `other -> weight @ other + bias`; weight `(C_own, C_other)`, bias `(C_own,)`."""
        self.stitch.weight.copy_(weight.reshape(self.stitch.weight.shape))
        self.stitch.bias.copy_(bias)


class Heads(nn.Module):
    """Joins the two parents' logits `(B, K, *spatial)`; `mode` is `ensemble`, `host` or `partner`.

    An ensemble of probabilities is returned as logits, so that nnU-Net's own softmax (or sigmoid, for region-based
    training) gives back the mean probability. An average of raw logits lets a confidently wrong parent win.
    """

    def __init__(self, mode: str = "ensemble", combine: str = "probabilities", regions: bool = False):
        super().__init__()
        self.mode, self.combine, self.regions = mode, combine, regions

    def forward(self, host: torch.Tensor, partner: torch.Tensor) -> torch.Tensor:
        if self.mode == "host":
            return host
        if self.mode == "partner":
            return partner
        if self.combine == "logits":
            return (host + partner) / 2
        return mean_sigmoid_as_logits(host, partner) if self.regions else mean_softmax_as_logits(host, partner)


def mean_softmax_as_logits(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """`log((softmax(a) + softmax(b)) / 2)` over dim 1, without underflow."""
    return torch.logaddexp(F.log_softmax(a, 1), F.log_softmax(b, 1)) - math.log(2)


def mean_sigmoid_as_logits(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """`logit((sigmoid(a) + sigmoid(b)) / 2)`, without underflow."""
    yes = torch.logaddexp(F.logsigmoid(a), F.logsigmoid(b))
    no = torch.logaddexp(F.logsigmoid(-a), F.logsigmoid(-b))
    return yes - no
