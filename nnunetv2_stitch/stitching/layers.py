"""Stitches, switches and the head that joins both parents' answers. One code path for 2d and 3d."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

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
    `host_share` is the host's weight in either average. On `unknown` outputs, which the partner does not have, it has
    no say: its background is shared out among them as the host sees it, a region is the host's alone.
    """

    def __init__(self, mode: str = "ensemble", combine: str = "probabilities", regions: bool = False,
                 host_share: float = 0.5, unknown: Sequence[int] = ()):
        super().__init__()
        self.mode, self.combine, self.regions, self.host_share = mode, combine, regions, host_share
        self.unknown = tuple(unknown)

    def forward(self, host: torch.Tensor, partner: torch.Tensor) -> torch.Tensor:
        if self.mode == "host":
            return host
        if self.mode == "partner":
            return partner
        if self.unknown:
            fill = ask_host if self.regions else share_out_background
            partner = fill(partner, host, self.unknown)
        if self.combine == "logits":
            return self.host_share * host + (1 - self.host_share) * partner
        mean = mean_sigmoid_as_logits if self.regions else mean_softmax_as_logits
        return mean(host, partner, self.host_share)


def share_out_background(partner: torch.Tensor, host: torch.Tensor, unknown: Sequence[int]) -> torch.Tensor:
    """The partner's logits `(B, K, *spatial)`, its background divided among background and the labels `unknown` to it
    in the proportions of the host's answer: in the partner's training those labels were background."""
    group = [0, *unknown]
    divided = partner[:, :1] + F.log_softmax(host[:, group], 1)
    return _with_channels(partner, dict(zip(group, divided.split(1, 1))))


def ask_host(partner: torch.Tensor, host: torch.Tensor, unknown: Sequence[int]) -> torch.Tensor:
    """The partner's logits with the host's in the regions `unknown` to it."""
    return _with_channels(partner, {c: host[:, c:c + 1] for c in unknown})


def _with_channels(x: torch.Tensor, new: Mapping[int, torch.Tensor]) -> torch.Tensor:
    return torch.cat([new.get(i, channel) for i, channel in enumerate(x.split(1, 1))], 1)


def mean_softmax_as_logits(a: torch.Tensor, b: torch.Tensor, share: float = 0.5) -> torch.Tensor:
    """`log(share * softmax(a) + (1 - share) * softmax(b))` over dim 1, without underflow."""
    return _log_mean(F.log_softmax(a, 1), F.log_softmax(b, 1), share)


def mean_sigmoid_as_logits(a: torch.Tensor, b: torch.Tensor, share: float = 0.5) -> torch.Tensor:
    """`logit(share * sigmoid(a) + (1 - share) * sigmoid(b))`, without underflow."""
    return _log_mean(F.logsigmoid(a), F.logsigmoid(b), share) - _log_mean(F.logsigmoid(-a), F.logsigmoid(-b), share)


def _log_mean(a: torch.Tensor, b: torch.Tensor, share: float) -> torch.Tensor:
    """`log(share * exp(a) + (1 - share) * exp(b))`."""
    if share == 0.5:
        return torch.logaddexp(a, b) - math.log(2)
    return torch.logaddexp(a + _log(share), b + _log(1 - share))


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf
