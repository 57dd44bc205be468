"""The layers of a traced network with what matching needs to know of each: channels, stride, progress."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import fx, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.pooling import _AvgPoolNd, _MaxPoolNd

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.graph.tracing import spatial_dims

SHAPE_KEEPING = (
    nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.Identity, nn.modules.dropout._DropoutNd,
    nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.PReLU, nn.Mish, nn.Hardswish, nn.ReLU6, nn.SELU, nn.Softplus,
)
ACTIVATIONS = SHAPE_KEEPING[4:]


@dataclass(frozen=True)
class LayerNode:
    """One feature map of a network.

    `name` is the fx node's name and unique; `path` the module path, as in `network.get_submodule(path)`, or the
    enclosing module's path plus the function's name for functions such as `cat`. `stride` is the cumulative stride
    from the input per axis. `progress` in [0, 1] is the share of the longest path through this node that is done.
    `stitchable` is false for the input, the head and the output.
    """

    name: str
    path: str
    channels: int
    stride: tuple[float, ...]
    progress: float
    stitchable: bool
    activation: bool


def layer_nodes(traced: fx.GraphModule, input_channels: int, path: str = "longest") -> list[LayerNode]:
    """All nodes of a traced network in order of execution, input, head and output included. `path` is what progress
    is measured along: the `longest` way through a node, or the `shortest`.

    Raises:
        StitchError: a layer whose effect on the shape is not known.
    """
    graph_nodes = list(traced.graph.nodes)
    modules = dict(traced.named_modules())
    shapes = _shapes(graph_nodes, modules, input_channels, spatial_dims(traced))
    progress = _progress(graph_nodes, path)
    output = graph_nodes[-1]
    head = output.args[0]
    return [
        LayerNode(
            name=node.name,
            path=_path(node),
            channels=shapes[node][0],
            stride=tuple(float(s) for s in shapes[node][1]),
            progress=progress[node],
            stitchable=node.op not in ("placeholder", "output") and node is not head,
            activation=node.op == "call_module" and isinstance(modules[node.target], ACTIVATIONS),
        )
        for node in graph_nodes
    ]


def _path(node: fx.Node) -> str:
    if node.op == "call_module":
        return str(node.target)
    if node.op in ("placeholder", "output"):
        return node.name
    stack = node.meta.get("nn_module_stack") or {}
    scope = list(stack.values())[-1][0] if stack else ""
    return f"{scope}.{node.name}" if scope else node.name


def _shapes(graph_nodes, modules, input_channels, dims) -> dict[fx.Node, tuple[int, tuple[Fraction, ...]]]:
    """(channels, cumulative stride) per node, from the layers' attributes and never from a traced size."""
    shapes: dict[fx.Node, tuple[int, tuple[Fraction, ...]]] = {}
    for node in graph_nodes:
        inputs = [shapes[n] for n in node.all_input_nodes]
        if node.op == "placeholder":
            shapes[node] = (input_channels, (Fraction(1),) * dims)
        elif node.op == "output":
            shapes[node] = inputs[0]
        elif node.op == "call_module":
            shapes[node] = _module_shape(node, modules[node.target], *inputs[0])
        elif node.op == "call_function" and node.target in (torch.cat, torch.concat) and _cat_dim(node) == 1:
            _same_stride(node, inputs)
            shapes[node] = (sum(c for c, _ in inputs), inputs[0][1])
        elif node.target in (operator.add, operator.iadd, torch.add, "add", "add_"):
            _same_stride(node, inputs)
            shapes[node] = inputs[0]
        else:
            raise StitchError(f"layer {_path(node)} ({node.target}) is not known to stitching")
    return shapes


def _cat_dim(node: fx.Node) -> int:
    return node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)


def _same_stride(node, inputs) -> None:
    if len({stride for _, stride in inputs}) != 1:
        raise StitchError(f"layer {_path(node)} joins feature maps of different strides")


def _module_shape(node, module, channels, stride):
    if isinstance(module, SHAPE_KEEPING):
        return channels, stride
    own = _per_axis(getattr(module, "stride", 1), len(stride))
    if isinstance(module, _ConvTransposeNd):
        return module.out_channels, tuple(s / o for s, o in zip(stride, own))
    if isinstance(module, _ConvNd):
        return module.out_channels, tuple(s * o for s, o in zip(stride, own))
    if isinstance(module, (_AvgPoolNd, _MaxPoolNd)):
        return channels, tuple(s * o for s, o in zip(stride, own))
    raise StitchError(f"layer {_path(node)} ({type(module).__name__}) is not known to stitching")


def _per_axis(value, dims) -> tuple[Fraction, ...]:
    values = value if isinstance(value, (tuple, list)) else (value,) * dims
    return tuple(Fraction(int(v)) for v in values)


def _progress(graph_nodes, path: str) -> dict[fx.Node, float]:
    """Done share of the longest (or shortest) input-to-output path through each node. With the longest it strictly
    increases along every edge."""
    length = {"longest": max, "shortest": min}[path]
    before: dict[fx.Node, int] = {}
    for node in graph_nodes:
        before[node] = 1 + length((before[n] for n in node.all_input_nodes), default=-1)
    after: dict[fx.Node, int] = {}
    for node in reversed(graph_nodes):
        after[node] = 1 + length((after[n] for n in node.users), default=-1)
    return {n: before[n] / max(1, before[n] + after[n]) for n in graph_nodes}
