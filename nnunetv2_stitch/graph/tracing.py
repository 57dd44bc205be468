"""A parent network -> torch.fx graph at layer level."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import fx, nn
from torch.nn import functional as F

from nnunetv2_stitch.errors import StitchError


def prepare(network: nn.Module) -> nn.Module:
    """Switch off what a traced graph cannot have, in place: deep supervision and in-place activations.

    An in-place activation overwrites the feature map that a stitch reads; computing it out of place gives the
    same numbers, where `trace` lets later readers of that map read the activation.
    """
    for module in network.modules():
        if getattr(module, "inplace", False):
            module.inplace = False
        if hasattr(module, "deep_supervision"):
            module.deep_supervision = False
    return network


def trace(network: nn.Module) -> fx.GraphModule:
    """Trace `network` (input `(B, C, *spatial)`, output logits `(B, K, *spatial)`), leaves being torch.nn modules.

    The result shares the parameters of `network` and overwrites no map. Its module paths are the first of the up to
    four names that nnU-Net gives one tensor, the same that `network.named_parameters()` lists.

    Raises:
        StitchError: the network has data-dependent control flow or several outputs.
    """
    name = f"{type(network).__module__}.{type(network).__qualname__}"
    in_place = {path for path, m in network.named_modules(remove_duplicate=False) if getattr(m, "inplace", False)}
    tracer = fx.Tracer()
    try:
        traced = fx.GraphModule(prepare(network), tracer.trace(network), type(network).__name__)
    except Exception as error:  # torch.fx raises many kinds, all of them mean the same here
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise StitchError(f"network {name} cannot be traced: torch.fx stops {_where(tracer)} ({reason}); only networks "
                          f"can be stitched whose way through their layers does not depend on the image") from error
    inputs = [node for node in traced.graph.nodes if node.op == "placeholder"]
    if len(inputs) != 1 or not isinstance(traced.graph.output_node().args[0], fx.Node):
        raise StitchError(f"network {name} needs exactly one input and one output to be stitched")
    _work_out_of_place(traced, in_place)
    return traced


def _where(tracer: fx.Tracer) -> str:
    """In which module a tracer was when it gave up."""
    stack = list(getattr(tracer, "module_stack", {}).values())
    if not stack:
        return "in its own forward"
    path, kind = stack[-1]
    return f"in its module {path} ({kind.__name__ if isinstance(kind, type) else kind})"


def _work_out_of_place(traced: fx.GraphModule, in_place: Collection[str]) -> None:
    """Replace calls that overwrite their input: modules that did (`in_place`), functions told to, and `x.relu_()`.
    Whoever read the overwritten map afterwards reads the result, as before."""
    nodes = list(traced.graph.nodes)
    order = {node: i for i, node in enumerate(nodes)}
    changed = False
    for node in nodes:
        target = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
        if node.op == "call_module":
            if node.target not in in_place:
                continue
        elif node.op not in ("call_function", "call_method"):
            continue
        elif node.kwargs.get("inplace"):
            node.update_kwarg("inplace", False)
        elif node.op == "call_method" and target.endswith("_") and not target.startswith("_"):
            node.target = target[:-1]
        elif node.target in (torch.relu_, F.relu_, F.leaky_relu_, F.elu_):
            node.target = getattr(F, target[:-1])
        else:
            continue
        changed = True
        if node.all_input_nodes:
            own = node.all_input_nodes[0]
            own.replace_all_uses_with(node, delete_user_cb=lambda user, n=node: order[user] > order[n])
    if changed:
        traced.recompile()


def spatial_dims(traced: fx.GraphModule) -> int:
    """Number of spatial dimensions (1 to 3) of the convolutions of a traced network, 0 where it has only linear
    layers."""
    for module in traced.modules():
        if isinstance(module, torch.nn.modules.conv._ConvNd):
            return len(module.kernel_size)
    if any(isinstance(module, nn.Linear) for module in traced.modules()):
        return 0
    raise StitchError("the network has no convolution, so there is nothing to stitch")
