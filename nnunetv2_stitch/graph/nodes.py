"""The layers of a traced network with what matching needs to know of each: channels, stride, progress."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.graph.propagation import ACTIVATION_FUNCTIONS, ACTIVATIONS, function_name, shapes_of
from nnunetv2_stitch.graph.shapes import Shape, Value
from nnunetv2_stitch.graph.tracing import spatial_dims


@dataclass(frozen=True)
class LayerNode:
    """One feature map of a network.

    `name` is the fx node's name and unique; `path` the module path, as in `network.get_submodule(path)`, or the
    enclosing module's path plus the function's name for functions such as `cat`. `stride` is the cumulative stride
    from the input per axis: infinite where the map has a size of its own, as behind adaptive pooling, and empty for a
    vector `(B, C)`. `sizes` are by axis those for inputs of the sizes `shapes.PROBES`. `progress` in [0, 1] is the
    share of the longest path through this node that is done. `stitchable` is false for the input, the head, the output
    and for what is no feature map; the channels of that are 0 where they are not known.
    """

    name: str
    path: str
    channels: int
    stride: tuple[float, ...]
    progress: float
    stitchable: bool
    activation: bool
    sizes: tuple[tuple[int, ...], ...] = ()


def layer_nodes(traced: fx.GraphModule, input_channels: int, unknown: str = "refuse") -> list[LayerNode]:
    """All nodes of a traced network in order of execution, input, head and output included.

    Args:
        unknown: what becomes of a layer whose effect on the shape is not known: `refuse` it, or `leave_out` it and
            what is made of it, which then is not stitchable.

    Raises:
        StitchError: a layer whose effect on the shape is not known.
    """
    graph_nodes = list(traced.graph.nodes)
    modules = dict(traced.named_modules())
    shapes = shapes_of(traced, input_channels, spatial_dims(traced))
    if unknown == "refuse" and (layer := unknown_layer(traced, shapes)):
        raise StitchError(f"layer {layer} is not known to stitching")
    progress = _progress(graph_nodes)
    head = graph_nodes[-1].args[0]
    return [_layer(node, shapes[node], progress[node], node is not head, modules) for node in graph_nodes]


def _layer(node: fx.Node, shape, progress: float, inner: bool, modules: dict) -> LayerNode:
    known = isinstance(shape, Shape)
    return LayerNode(
        name=node.name, path=_path(node), channels=shape.channels if known else 0,
        stride=tuple(float(s) for s in shape.stride) if known else (), progress=progress,
        stitchable=(inner and known and node.op not in ("placeholder", "output") and shape.channels > 0
                    and not shape.channels_last),
        activation=(isinstance(modules[node.target], ACTIVATIONS) if node.op == "call_module" else
                    node.op in ("call_function", "call_method") and function_name(node) in ACTIVATION_FUNCTIONS),
        sizes=shape.sizes if known else ())


def unknown_layer(traced: fx.GraphModule, shapes: dict[fx.Node, Value]) -> str | None:
    """The first layer whose effect on the shape is not known, with its kind; None if all are known."""
    node = next((n for n, shape in shapes.items() if shape is None), None)
    if node is None:
        return None
    kind = type(traced.get_submodule(node.target)).__name__ if node.op == "call_module" else node.target
    return f"{_path(node)} ({kind})"


def _path(node: fx.Node) -> str:
    if node.op == "call_module":
        return str(node.target)
    if node.op in ("placeholder", "output"):
        return node.name
    stack = node.meta.get("nn_module_stack") or {}
    scope = list(stack.values())[-1][0] if stack else ""
    return f"{scope}.{node.name}" if scope else node.name


def _progress(graph_nodes) -> dict[fx.Node, float]:
    """Done share of the longest input-to-output path through each node; it strictly increases along every edge."""
    before: dict[fx.Node, int] = {}
    for node in graph_nodes:
        before[node] = 1 + max((before[n] for n in node.all_input_nodes), default=-1)
    after: dict[fx.Node, int] = {}
    for node in reversed(graph_nodes):
        after[node] = 1 + max((after[n] for n in node.users), default=-1)
    return {n: before[n] / max(1, before[n] + after[n]) for n in graph_nodes}
