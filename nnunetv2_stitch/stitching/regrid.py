"""Modules that bring images, feature maps and logits from one parent's grid to the other's.

All maps start at the same corner, and padding is at the far ends, so that a voxel of one grid lies at
`(index + 0.5) * factor - 0.5` of the other whatever the sizes are. Interpolation is linear and separable, beyond the
edge the edge goes on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from functools import lru_cache

import numpy as np
import torch
from scipy.ndimage import affine_transform
from torch import nn
from torch.nn import functional as F

from nnunetv2_stitch.bridging.bridge import Bridge

# A logit that no softmax or sigmoid hears. No lower, because nnU-Net sums tiles of ten times the logits as halves.
SILENT = -100.0


def resample(x: torch.Tensor, factors: Sequence[float], sizes: Sequence[int], order: int = 1) -> torch.Tensor:
    """`(B, C, *spatial)` -> `(B, C, *sizes)`; `factors`: input voxels per output voxel, by axis; `order`: of the
    splines, 1 or 3."""
    for axis, (factor, size) in enumerate(zip(factors, sizes), start=2):
        if factor == 1:
            x = _resize(x, axis, size)
        else:
            weights = _weights(x.shape[axis], size, factor, order, x.device, x.dtype)
            # torch.compile takes the sizes for unknown where constants of several sizes come from here.
            weights = weights.view(x.shape[axis], size)
            x = torch.matmul(x.movedim(axis, -1), weights).movedim(-1, axis)
    return x


def _resize(x: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    """Crop or repeat the edge at the far end."""
    length = x.shape[axis]
    if size <= length:
        return x.narrow(axis, 0, size)
    edge = x.narrow(axis, length - 1, 1)
    return torch.cat([x, edge.expand(*x.shape[:axis], size - length, *x.shape[axis + 1:])], axis)


@torch.compiler.assume_constant_result  # SciPy is not for torch.compile to look into
def _weights(length: int, size: int, factor: float, order: int, device, dtype) -> torch.Tensor:
    return _kept_weights(length, size, factor, order, device, dtype)


@lru_cache(maxsize=256)
@torch.inference_mode(False)  # kept for later calls, which may need gradients
def _kept_weights(length: int, size: int, factor: float, order: int, device, dtype) -> torch.Tensor:
    """`(length, size)`: what spline interpolation makes of each unit vector."""
    found = affine_transform(np.eye(length), [factor, 1.0], [0.5 * factor - 0.5, 0.0], (size, length), order=order,
                             mode="nearest")
    return torch.from_numpy(found.T.astype(np.float32)).to(device, dtype)


class Geometry:
    """Sizes on either grid for an input of the host's size."""

    def __init__(self, bridge: Bridge):
        self.axes, self.ratio, self.multiple = bridge.axes, bridge.ratio, bridge.multiple
        self.back = [self.axes.index(a) for a in range(len(self.axes))]

    def partner_size(self, host_size: Sequence[int], padded: bool = True) -> list[int]:
        """Size of the partner's input, in the partner's order of axes."""
        sizes = [math.ceil(host_size[a] * r - 1e-6) for a, r in zip(self.axes, self.ratio)]
        return [-(-s // m) * m for s, m in zip(sizes, self.multiple)] if padded else sizes

    def to_partner(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 1, *(a + 2 for a in self.axes))

    def to_host(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 1, *(a + 2 for a in self.back))


class InputBridge(nn.Module):
    """The host's input `(B, C, *spatial)` as the partner's network wants it."""

    def __init__(self, bridge: Bridge):
        super().__init__()
        self.bridge, self.geometry = bridge, Geometry(bridge)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = x.shape[2:]
        channels = [self._intensity(x[:, c:c + 1], i) for c, i in zip(self.bridge.channels, self.bridge.intensities)]
        x = channels[0] if len(channels) == 1 else torch.cat(channels, 1)
        if not self.bridge.changes_grid:
            return x
        # Intensities in full precision: the partner has seen no rounding to 16 bits.
        with nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):  # meta has no autocast
            inside = self.geometry.partner_size(size, padded=False)
            x = resample(self.geometry.to_partner(x), [1 / r for r in self.geometry.ratio], inside, order=3)
            padding = [p - n for p, n in zip(self.geometry.partner_size(size), inside)]
            return F.pad(x, [v for p in padding[::-1] for v in (0, p)])

    @staticmethod
    def _intensity(x: torch.Tensor, intensity) -> torch.Tensor:
        if intensity.per_patch is not None:
            spatial = tuple(range(2, x.ndim))
            if intensity.per_patch == "zscore":
                return (x - x.mean(spatial, keepdim=True)) / x.std(spatial, keepdim=True).clamp_min(1e-8)
            low, high = x.amin(spatial, keepdim=True), x.amax(spatial, keepdim=True)
            return (x - low) / (high - low).clamp_min(1e-8)
        if intensity.is_identity:
            return x
        x = x * intensity.scale + intensity.shift
        return x if intensity.lower is None and intensity.upper is None else x.clamp(intensity.lower, intensity.upper)


class Regrid(nn.Module):
    """One parent's feature map on the grid of the other's map at the same match; `x` is the joined network's input,
    for its size. `to`: whose grid; strides per axis of either side, each in its own order of axes."""

    def __init__(self, bridge: Bridge, to: str, host_stride: Sequence[float], partner_stride: Sequence[float]):
        super().__init__()
        self.geometry, self.to = Geometry(bridge), to
        self.host_stride, self.partner_stride = tuple(host_stride), tuple(partner_stride)

    def forward(self, other: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        g = self.geometry
        # Partner voxels of this layer per host voxel of this layer, in the partner's order.
        scale = [self.host_stride[a] * r / s for a, r, s in zip(g.axes, g.ratio, self.partner_stride)]
        if self.to == "host":
            sizes = [math.ceil(n / s - 1e-6) for n, s in zip(x.shape[2:], self.host_stride)]
            return g.to_host(resample(other, scale, [sizes[a] for a in g.axes]))
        sizes = [math.ceil(n / s - 1e-6) for n, s in zip(g.partner_size(x.shape[2:]), self.partner_stride)]
        return resample(g.to_partner(other), [1 / f for f in scale], sizes)


class OutputBridge(nn.Module):
    """The partner's logits as the host's: on its grid, in its order of labels. Labels that the partner does not know
    are silent, see `stitching.layers.Heads`."""

    def __init__(self, bridge: Bridge):
        super().__init__()
        self.bridge, self.geometry = bridge, Geometry(bridge)

    def forward(self, logits: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        if self.bridge.changes_grid:
            sizes = list(x.shape[2:])
            logits = self.geometry.to_host(resample(logits, self.geometry.ratio, [sizes[a] for a in self.bridge.axes]))
        if self.bridge.outputs == tuple((i,) for i in range(logits.shape[1])):
            return logits
        silent = torch.full_like(logits[:, :1], SILENT)
        outputs = [silent if not sources else logits[:, sources[0]:sources[0] + 1] if len(sources) == 1
                   else torch.logsumexp(logits[:, list(sources)], 1, keepdim=True) for sources in self.bridge.outputs]
        return torch.cat(outputs, 1)
