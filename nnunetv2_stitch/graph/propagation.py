"""The shape behind every node of a traced network, from the nodes' attributes alone.

Where the effect of a node is not known, its shape is None, and so is that of what is made of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

import torch
from torch import fx, nn
from torch.nn.modules import activation
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.padding import _ConstantPadNd, _ReflectionPadNd, _ReplicationPadNd
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd, _AvgPoolNd, _MaxPoolNd

from nnunetv2_stitch.graph.shapes import (
    BY_NAME,
    PROBES,
    Constant,
    Shape,
    SizeOf,
    Value,
    adaptive,
    flatten,
    interpolate,
    pad,
    pixel_shuffle,
    transposed,
    window,
)

ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.PReLU, nn.Mish, nn.Hardswish, nn.ReLU6, nn.SELU,
               nn.Softplus, nn.CELU, nn.RReLU)
SHAPE_KEEPING = (
    nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm, nn.Identity,
    nn.modules.dropout._DropoutNd, *ACTIVATIONS, nn.Sigmoid, nn.Tanh, nn.Hardsigmoid, nn.Hardtanh, nn.LogSigmoid,
    activation.Softmax, activation.Softmax2d, activation.LogSoftmax,
)
ACTIVATION_FUNCTIONS = frozenset("relu leaky_relu elu gelu silu prelu mish hardswish relu6 selu softplus celu".split())
KEEPING_FUNCTIONS = ACTIVATION_FUNCTIONS | frozenset(
    "sigmoid tanh hardsigmoid hardtanh logsigmoid softmax log_softmax dropout dropout1d dropout2d dropout3d "
    "alpha_dropout feature_dropout batch_norm instance_norm group_norm layer_norm local_response_norm normalize clamp "
    "exp log sqrt rsqrt abs neg square pow contiguous clone detach float to type_as stochastic_depth".split())
ARITHMETIC = frozenset("add sub mul truediv div iadd isub imul itruediv maximum minimum".split())
LIBRARIES = ("torch", "torchvision", "_operator", "math", "builtins")


def shapes_of(traced: fx.GraphModule, input_channels: int, dims: int) -> dict[fx.Node, Value]:
    """By node. `dims` is the number of spatial dimensions of the input, 0 for vectors `(B, C)`."""
    found: dict[fx.Node, Value] = {}
    modules = dict(traced.named_modules())
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            found[node] = Shape(input_channels, (Fraction(1),) * dims, (PROBES,) * dims)
        elif node.op == "output":
            found[node] = found[node.args[0]]
        elif node.op == "get_attr":
            path, _, name = node.target.rpartition(".")
            value = getattr(modules[path], name)
            found[node] = Constant(tuple(value.shape)) if isinstance(value, torch.Tensor) else None
        else:
            args, kwargs = _valued(node.args, found), _valued(node.kwargs, found)
            if node.op == "call_module":
                found[node] = _module(modules[node.target], args[0]) if len(args) == 1 and not kwargs else None
            else:
                found[node] = _function(function_name(node), args, kwargs)
    return found


def _valued(arg, found: Mapping[fx.Node, Value]):
    """An argument with the values of nodes in their place."""
    if isinstance(arg, fx.Node):
        return found[arg]
    if isinstance(arg, (tuple, list)):
        return [_valued(a, found) for a in arg]
    return {k: _valued(v, found) for k, v in arg.items()} if isinstance(arg, Mapping) else arg


def function_name(node: fx.Node) -> str:
    """Of a function of torch or of a method of a tensor: `relu` for `F.relu`, `torch.relu`, `x.relu()`; empty for
    other functions."""
    if node.op == "call_method":
        return node.target
    module = getattr(node.target, "__module__", None) or "torch"
    return getattr(node.target, "__name__", "") if module.split(".")[0] in LIBRARIES else ""


def _module(module: nn.Module, x: Value) -> Value:
    if not isinstance(x, Shape):
        return None
    if isinstance(module, SHAPE_KEEPING):
        return x
    if isinstance(module, nn.Flatten):
        return flatten(x, module.start_dim, module.end_dim)
    if isinstance(module, nn.Linear):
        return replace(x, channels=module.out_features) if x.channels_last or not x.stride else None
    if x.channels_last:
        return None
    if isinstance(module, (_AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd)):
        return adaptive(x, module.output_size, getattr(module, "return_indices", False))
    if isinstance(module, nn.Upsample):
        return interpolate(x, module.size, module.scale_factor)
    if isinstance(module, (nn.PixelShuffle, nn.PixelUnshuffle)):
        return pixel_shuffle(x, *((module.upscale_factor, 1) if isinstance(module, nn.PixelShuffle)
                                   else (1, module.downscale_factor)))
    if isinstance(module, (_ConstantPadNd, _ReflectionPadNd, _ReplicationPadNd)):
        return pad(x, module.padding)
    if isinstance(module, _ConvNd) and x.channels not in (0, module.in_channels):
        return None  # torch.fx has missed something
    if isinstance(module, _ConvTransposeNd):
        return transposed(x, module)
    if isinstance(module, _ConvNd):
        return window(x, module.kernel_size, module.stride, module.padding, module.dilation,
                      channels=module.out_channels)
    if isinstance(module, (_AvgPoolNd, _MaxPoolNd)):
        return window(x, module.kernel_size, module.stride, module.padding, getattr(module, "dilation", 1),
                      module.ceil_mode, getattr(module, "return_indices", False))
    return None


def _function(name: str, args: Sequence, kwargs: Mapping) -> Value:
    inner = name.removesuffix("_") if not name.endswith("__") else name
    if not args and "input" in kwargs:
        args, kwargs = [kwargs["input"]], {k: v for k, v in kwargs.items() if k != "input"}
    if not args:
        return None
    x, *rest = args
    if inner in ARITHMETIC:
        return _arithmetic(x, rest[0] if rest else kwargs.get("other"))
    if inner in ("cat", "concat", "concatenate"):
        return _cat(x, rest[0] if rest else kwargs.get("dim", 0))
    if name == "getitem":
        return _sliced(x, *rest)
    if not isinstance(x, Shape):
        return None
    if inner in KEEPING_FUNCTIONS:
        return x
    if name == "size":
        return SizeOf(x) if not rest and not kwargs else Constant(())
    if name == "getattr":
        return SizeOf(x) if rest == ["shape"] else None
    rule = BY_NAME.get(inner) if inner == "permute" or not x.channels_last else None
    try:
        return None if rule is None else rule(x, *rest, **kwargs)
    except (TypeError, ValueError, ZeroDivisionError):  # called with what is only known when the network runs
        return None


def _arithmetic(a: Value, b: Value) -> Value:
    a, b = (b, a) if isinstance(a, (int, float, Constant)) else (a, b)
    if not isinstance(a, Shape):
        return None
    if isinstance(b, (int, float)):
        return a
    if isinstance(b, Constant):
        channel = len(b.shape) - 1 - (0 if a.channels_last else len(a.stride))
        fits = len(b.shape) <= 2 + len(a.stride) and (channel < 0 or b.shape[channel] in (1, a.channels))
        return a if fits else None
    if not isinstance(b, Shape) or len(a.stride) != len(b.stride) or a.channels_last != b.channels_last:
        return None
    for one, other in ((a, b), (b, a)):  # a weight for each channel, or for each place, spreads over the other map
        spreads = other.fixed is not None and set(other.fixed) <= {1}
        if other.channels in (1, one.channels) and (one.is_joined_with(other) or spreads):
            return one
    return None


def _cat(parts: Sequence[Value], dim: int) -> Value:
    first = parts[0] if isinstance(parts, list) and parts else None
    if not isinstance(first, Shape) or first.channels_last or dim not in (1, -1 - len(first.stride)):
        return None
    if not all(isinstance(p, Shape) and p.is_joined_with(first) for p in parts):
        return None
    channels = [p.channels for p in parts]
    return replace(first, channels=sum(channels) if all(channels) else 0)


def _sliced(x: Value, index) -> Value:
    if not isinstance(x, SizeOf) or not isinstance(index, (slice, int)):
        return None
    if isinstance(index, int):
        return Constant(())
    if x.spatial:
        return None
    spatial = index.start in (2, -len(x.shape.stride)) and (index.stop, index.step) == (None, None)
    return SizeOf(x.shape, True) if spatial else None
