"""The squared error of a feature map relative to its target's variance, with little memory for the backward pass."""

from __future__ import annotations

import torch


class RelativeError(torch.autograd.Function):
    """`mean((x - target)^2) / variance(target)`, i.e. 1 - R^2; saves one map for the backward pass instead of two, in
    the precision `keep` where that is lower."""

    @staticmethod
    def forward(ctx, x, target, keep=None):
        difference = x - target
        channel_means = target.float().mean((0, *range(2, target.ndim)), keepdim=True)
        scale = 1.0 / (target - channel_means).square_().sum().clamp_min(1e-8 * target.numel())
        ctx.save_for_backward(narrowed(difference, keep), scale)
        ctx.dtype = difference.dtype
        own = difference.float()
        return (own.square() if own is difference else own.square_()).sum() * scale

    @staticmethod
    def backward(ctx, grad):
        difference, scale = ctx.saved_tensors
        own = difference.float()
        factor = 2 * scale * grad
        return (own * factor if own is difference else own.mul_(factor)).to(ctx.dtype), None, None


def relative_error(x: torch.Tensor, target: torch.Tensor, keep: torch.dtype | None = None) -> torch.Tensor:
    """Squared error of a map `(B, C, *spatial)` over the variance of the target around its channel means."""
    return RelativeError.apply(x, target, keep)


def narrowed(x: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    """`x` in the precision `dtype`, if that is lower than its own."""
    return x if dtype is None or dtype.itemsize >= x.element_size() else x.to(dtype)
