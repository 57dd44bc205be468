"""Stitches, switches and the head that joins the parents' answers. One code path for 2d and 3d."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import reduce

import torch
from dynamic_network_architectures.building_blocks.helper import convert_dim_to_conv_op
from torch import nn
from torch.nn import functional as F

Shares = Sequence[float | torch.Tensor]


class Switch(nn.Module):
    """The multiplexer behind a matched layer of one parent, with the stitch that feeds it from the other.

    The stitch is a 1x1 convolution with bias, `(B, C_other, *spatial) -> (B, C_own, *spatial)`; of vectors `(B, C)`,
    which have 0 `dims`, the same linear map. States: `own` passes the parent's own map, `stitched` the translated map
    of the other parent, `average` a mean of the two in which the translated map has the weight `mixing_weight`: one
    half; or less where a host's layer is joined with several partners, whose switches follow one another, so that all
    that are averaged count alike; or any number that was chosen. A gate puts a tensor `(B, 1, ...)` in the place of
    `mixing_weight` for the time of a forward pass.
    """

    def __init__(self, dims: int, other_channels: int, own_channels: int):
        super().__init__()
        self.stitch = (nn.Linear(other_channels, own_channels) if dims == 0 else
                       convert_dim_to_conv_op(dims)(other_channels, own_channels, kernel_size=1, bias=True))
        self.state: str = "own"
        self.mixing_weight: float | torch.Tensor = 0.5
        self.parties: tuple[tuple[int, ...], int] = ((), 0)  # whose maps the own one is the mean of, whose the other is

    def forward(self, own: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        if self.state == "own":
            return own
        stitched = self.stitch(other)
        if self.state == "stitched" or torch.is_grad_enabled() or own.dtype != stitched.dtype:
            return self.choose(own, stitched)
        return stitched.sub_(own).mul_(self._weight(own)).add_(own)  # as `choose` to the last bit, in two maps less

    def choose(self, own: torch.Tensor, stitched: torch.Tensor) -> torch.Tensor:
        if self.state == "own":
            return own
        return stitched if self.state == "stitched" else own + self._weight(own) * (stitched - own)

    def _weight(self, own: torch.Tensor) -> float | torch.Tensor:
        weight = self.mixing_weight
        return weight.to(own.dtype) if isinstance(weight, torch.Tensor) else weight

    @torch.no_grad()
    def set_affine(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        """Set the stitch to `other -> weight @ other + bias`; weight `(C_own, C_other)`, bias `(C_own,)`."""
        self.stitch.weight.copy_(weight.reshape(self.stitch.weight.shape))
        self.stitch.bias.copy_(bias)


class SameSize(nn.Module):
    """The other's map at the size of the own one, for layers of one scale whose networks pad or round differently."""

    def forward(self, other: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        if other.shape[2:] == own.shape[2:]:
            return other
        return F.interpolate(other, own.shape[2:], mode=("linear", "bilinear", "trilinear")[own.ndim - 3])


class Heads(nn.Module):
    """Joins the parents' logits `(B, K, *spatial)`, the host's first.

    `output` is an index: whose logits are returned, or None for the ensemble. An ensemble of probabilities is returned
    as logits, so that nnU-Net's own softmax (or sigmoid, for region-based training) gives back the mean probability.
    An average of raw logits lets a confidently wrong parent win. `host_share` is the host's weight in either average,
    the partners share the rest; None: all alike. `shares`, one `(B, 1, ...)` per party, are a gate's for the time of a
    forward pass and take the place of `host_share`. On its `unknown` outputs, which a partner does not have, it has no
    say: its background is shared out among them as the host sees it, a region is the host's alone.
    """

    def __init__(self, output: int | None = None, combine: str = "probabilities", regions: bool = False,
                 host_share: float | None = None, unknown: Sequence[Sequence[int]] = ()):
        super().__init__()
        self.output, self.combine, self.regions, self.host_share = output, combine, regions, host_share
        self.unknown = tuple(map(tuple, unknown))
        self.shares: Sequence[torch.Tensor] | None = None

    def forward(self, host: torch.Tensor, *partners: torch.Tensor) -> torch.Tensor:
        return self.ensemble(host, *partners) if self.output is None else (host, *partners)[self.output]

    def with_share(self, host_share: float) -> Heads:
        """These heads, averaging probabilities with another share of the host."""
        return Heads(self.output, "probabilities", self.regions, host_share, self.unknown)

    def ensemble(self, host: torch.Tensor, *partners: torch.Tensor) -> torch.Tensor:
        """The average of all, whatever `output` is."""
        logits = [host, *partners]
        for i, unknown in enumerate(self.unknown, start=1):
            if unknown:
                logits[i] = (ask_host if self.regions else share_out_background)(logits[i], host, unknown)
        shares = self.shares
        if shares is None and self.host_share is not None:
            shares = [self.host_share, *[(1 - self.host_share) / len(partners)] * len(partners)]
        if self.combine == "logits":
            return sum(x * share for x, share in zip(logits, shares or [1 / len(logits)] * len(logits)))
        return (mean_sigmoid_as_logits if self.regions else mean_softmax_as_logits)(logits, shares)


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


def mean_softmax_as_logits(logits: Sequence[torch.Tensor], shares: Shares | None = None) -> torch.Tensor:
    """`log(sum_i share_i * softmax(logits_i))` over dim 1, without underflow; equal shares if None."""
    return _log_mean([F.log_softmax(x, 1) for x in logits], shares)


def mean_sigmoid_as_logits(logits: Sequence[torch.Tensor], shares: Shares | None = None) -> torch.Tensor:
    """`logit(sum_i share_i * sigmoid(logits_i))`, without underflow; equal shares if None."""
    return (_log_mean([F.logsigmoid(x) for x in logits], shares)
            - _log_mean([F.logsigmoid(-x) for x in logits], shares))


def _log_mean(values: Sequence[torch.Tensor], shares: Shares | None) -> torch.Tensor:
    """`log(sum_i share_i * exp(value_i))`."""
    if shares is None:
        return reduce(_log_add, values) - math.log(len(values))
    return reduce(_log_add, [x + _log(share) for x, share in zip(values, shares)])


def _log_add(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """`torch.logaddexp`; without gradients in a form that takes a fifth of its time on a CPU, compiled or not."""
    if torch.is_grad_enabled():
        return torch.logaddexp(a, b)
    top = torch.maximum(a, b)
    return torch.minimum(a, b).sub_(top).exp_().add_(1).log_().add_(top)


def _log(value: float | torch.Tensor) -> float | torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value.clamp_min(torch.finfo(value.dtype).tiny).log()  # of two that are minus infinity there is no sum
    return math.log(value) if value > 0 else -math.inf
