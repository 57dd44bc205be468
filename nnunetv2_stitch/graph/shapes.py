"""The shape of a feature map for inputs of any size, and what layers do to it. A size is never traced."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from torch.nn.modules.conv import _ConvTransposeNd

# Of inputs, to see whether two maps of one stride have one size whatever the input's: padding and rounding decide.
PROBES = tuple(range(64, 97))
FIXED = math.inf  # the stride along an axis whose size does not depend on the input's, as behind adaptive pooling


@dataclass(frozen=True)
class Shape:
    """Of a map `(B, C, *spatial)`, of a vector `(B, C)` where `stride` is empty, or of `(B, *spatial, C)`.

    `channels` is 0 where their number depends on the input's size; `stride` the cumulative stride per axis, or FIXED;
    `sizes` per axis those for inputs of the sizes PROBES.
    """

    channels: int
    stride: tuple[Fraction | float, ...]
    sizes: tuple[tuple[int, ...], ...] = ()
    channels_last: bool = False

    @property
    def fixed(self) -> tuple[int, ...] | None:
        """The sizes of a map that has the same for all inputs, None for others."""
        return tuple(s[0] for s in self.sizes) if all(s == FIXED for s in self.stride) else None

    def is_joined_with(self, other: Shape) -> bool:
        return (self.stride, self.channels_last, self.fixed) == (other.stride, other.channels_last, other.fixed)


@dataclass(frozen=True)
class SizeOf:
    """The value of `x.shape`, or `spatial` of `x.shape[2:]`."""

    shape: Shape
    spatial: bool = False


@dataclass(frozen=True)
class Constant:
    """A tensor of the network, such as a scale for each channel, or a number."""

    shape: tuple[int, ...]


Value = Shape | SizeOf | Constant | None


def _each(value, x: Shape) -> list:
    values = list(value) if isinstance(value, (tuple, list)) else [value] * len(x.stride)
    if len(values) != len(x.stride):
        raise ValueError("as many values as axes")
    return values


def _along(x: Shape, factors: Sequence, size: Callable[[int, int], int], channels: int | None = None) -> Shape:
    """`x` with every axis divided by its factor; `size(axis, n)` of an axis that had n."""
    sizes = tuple(tuple(size(i, n) for n in s) for i, s in enumerate(x.sizes))
    strides = tuple(s if s == FIXED else s * Fraction(f).limit_denominator(1000) for s, f in zip(x.stride, factors))
    return Shape(x.channels if channels is None else channels, strides, sizes)


def window(x: Shape, kernel_size, stride=None, padding=0, dilation=1, ceil_mode: bool = False,
           return_indices: bool = False, *, channels: int | None = None) -> Value:
    """Behind a convolution or a pooling.

    Args:
        x: the shape before it.
        kernel_size, stride, padding, dilation, ceil_mode, return_indices: as torch's functions take them.
        channels: behind it; None for those before it.
    """
    if return_indices:
        return None
    kernel, d = _each(kernel_size, x), _each(dilation, x)
    s = kernel if stride in (None, []) else _each(stride, x)
    spans = [a * (k - 1) for a, k in zip(d, kernel)]
    both = spans if padding == "same" else [0 if padding == "valid" else 2 * p for p in _each(padding, x)]
    up = -1 if ceil_mode else 1
    return _along(x, s, lambda i, n: up * ((up * (n + both[i] - spans[i] - 1)) // s[i]) + 1, channels)


def transposed(x: Shape, module: _ConvTransposeNd) -> Shape:
    k, s, p, d, o = (_each(v, x) for v in (module.kernel_size, module.stride, module.padding, module.dilation,
                                           module.output_padding))
    return _along(x, [Fraction(1, v) for v in s],
                  lambda i, n: (n - 1) * s[i] - 2 * p[i] + d[i] * (k[i] - 1) + o[i] + 1, module.out_channels)


def adaptive(x: Shape, output_size, return_indices: bool = False) -> Value:
    if return_indices:
        return None
    wanted = _each(output_size, x)
    return replace(x, stride=tuple(s if w is None else FIXED for s, w in zip(x.stride, wanted)),
                   sizes=tuple(s if w is None else (int(w),) * len(PROBES) for s, w in zip(x.sizes, wanted)))


def interpolate(x: Shape, size=None, scale_factor=None, *_, **__) -> Value:
    if isinstance(size, SizeOf):
        return replace(x, stride=size.shape.stride, sizes=size.shape.sizes) if size.spatial else None
    if size is not None:
        return adaptive(x, size)
    scale = [Fraction(s).limit_denominator(1000) for s in _each(scale_factor, x)]
    return _along(x, [1 / s for s in scale], lambda i, n: math.floor(n * scale[i]))


def pixel_shuffle(x: Shape, up: int, down: int = 1) -> Shape:
    factor = Fraction(down, up)
    return _along(x, [factor] * len(x.stride), lambda i, n: math.floor(n / factor),
                  int(x.channels * factor ** len(x.stride)))


def pad(x: Shape, pad, *_, **__) -> Shape:
    """Pairs of numbers, the last axis first."""
    pairs = [pad[i] + pad[i + 1] for i in range(0, len(pad), 2)]
    more = [0] * (len(x.stride) - len(pairs)) + pairs[::-1]
    if len(more) != len(x.stride):
        raise ValueError("channels are padded")
    return _along(x, [1] * len(more), lambda i, n: n + more[i])


def flatten(x: Shape, start_dim: int = 0, end_dim: int = -1) -> Value:
    if start_dim != 1 or end_dim not in (-1, 1 + len(x.stride)):
        return None
    return Shape(0 if x.fixed is None else x.channels * math.prod(x.fixed), ())


def view(x: Shape, *shape) -> Value:
    """`x.view(len(x), -1)` and the like; whether another number of columns is that of the map is checked."""
    shape = list(shape[0]) if len(shape) == 1 and isinstance(shape[0], list) else list(shape)
    flat = flatten(x, 1) if len(shape) == 2 and shape[0] in (-1, Constant(())) else None
    return flat if flat is None or shape[1] == -1 or shape[1] == flat.channels else replace(flat, channels=0)


def repeat(x: Shape, *times) -> Value:
    """Along the channels alone."""
    times = list(times[0]) if len(times) == 1 and isinstance(times[0], list) else list(times)
    if x.channels_last or len(times) != 2 + len(x.stride) or {*times[:1], *times[2:]} != {1}:
        return None
    return replace(x, channels=x.channels * int(times[1]))


def mean(x: Shape, dim=None, keepdim: bool = False, **_) -> Value:
    rank = len(x.stride)
    dims = sorted(d % (rank + 2) for d in (dim if isinstance(dim, list) else [dim]))
    if not rank or x.channels_last or dims != list(range(2, rank + 2)):
        return None
    return adaptive(x, 1) if keepdim else Shape(x.channels, ())


def squeeze(x: Shape, dim: int | None = None) -> Value:
    if dim is None:
        return Shape(x.channels, ()) if x.fixed is not None and set(x.fixed) <= {1} else None
    axis = dim % (2 + len(x.stride)) - 2
    if axis < 0 or x.channels_last or set(x.sizes[axis]) != {1}:
        return None
    return replace(x, stride=x.stride[:axis] + x.stride[axis + 1:], sizes=x.sizes[:axis] + x.sizes[axis + 1:])


def permute(x: Shape, *dims) -> Value:
    dims = list(dims[0]) if len(dims) == 1 and isinstance(dims[0], list) else list(dims)
    rank = len(x.stride)
    last, first = [0, *range(2, rank + 2), 1], [0, rank + 1, *range(1, rank + 1)]
    if rank < 2 or dims != (first if x.channels_last else last):
        return None
    return replace(x, channels_last=not x.channels_last)


BY_NAME: dict[str, Callable[..., Value]] = {
    "flatten": flatten, "view": view, "reshape": view, "mean": mean, "squeeze": squeeze, "permute": permute,
    "repeat": repeat, "interpolate": interpolate, "upsample": interpolate, "pad": pad,
    "pixel_shuffle": pixel_shuffle, "pixel_unshuffle": lambda x, down: pixel_shuffle(x, 1, down),
    **{f"adaptive_{kind}_pool{d}d": adaptive for kind in ("avg", "max") for d in (1, 2, 3)},
    **{f"max_pool{d}d": window for d in (1, 2, 3)},
    **{f"avg_pool{d}d": lambda x, kernel_size, stride=None, padding=0, ceil_mode=False, *_, **__: window(
        x, kernel_size, stride, padding, 1, ceil_mode) for d in (1, 2, 3)},
}
