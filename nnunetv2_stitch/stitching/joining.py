"""Traced parents -> one joined torch.fx graph with a switch behind every matched layer, and its pruning."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.stitching.layers import SameSize
from nnunetv2_stitch.stitching.ordering import reorder
from nnunetv2_stitch.stitching.runner import is_switch, position_of
from nnunetv2_stitch.stitching.setting import SIDES, Setting


def switch_target(position: int, side: str) -> str:
    return f"switches.{position}.{side}"


def join(root: nn.Module, parents: Mapping[str, fx.Graph], matches: Sequence[tuple[str, str, str]],
         positions: Iterable[int]) -> fx.GraphModule:
    """Join the graphs of a host and its partners, by name, the host first: a star, where every match is between the
    host and one partner. `root` holds the parents under their names, `switches.<position>.<side>` and `heads`, and
    where parties differ `bridge.<partner>.input`, `bridge.<partner>.output` and `bridge.regrid.<position>.<side>`,
    which reads the other's map and the input, or the own map if it is a `SameSize`.

    `matches` are a partner's name and two fx node names, the host's and that partner's; they do not decrease in the
    host and increase in every partner. Each stitch reads the raw map before any switch, so both directions can be on at
    once without a cycle; every later consumer, skips included, reads the switch. Of several switches behind one layer
    of the host, each reads the one before. All nodes up to match k precede switch k, and all consumers of it follow:
    what comes before a position in the joined graph does not depend on the switch there. Returns a GraphModule that
    shares its leaf modules with `root`.
    """
    positions = set(positions)
    graph = fx.Graph()
    x = graph.placeholder("x")
    streams = {}
    for name, parent in parents.items():
        path = f"bridge.{name}.input"
        start = graph.create_node("call_module", path, (x,), name=f"bridge_{name}_input") if has(root, path) else x
        streams[name] = _Stream(graph, name, parent, start)
    host = next(iter(streams.values()))
    for position, (partner, *names) in enumerate(matches):
        pair = host, streams[partner]
        raw = [stream.copy_up_to(name) for stream, name in zip(pair, names)]
        if position not in positions:
            continue
        others = raw[::-1]
        if has(root, f"bridge.regrid.{position}"):
            paths = [f"bridge.regrid.{position}.{side}" for side in SIDES]
            others = [graph.create_node("call_module", path, (
                other, own if isinstance(root.get_submodule(path), SameSize) else x), name=f"regrid_{position}_{side}")
                for side, path, own, other in zip(SIDES, paths, raw, others)]
        owns = [stream.switched(name) for stream, name in zip(pair, names)]
        for side, stream, name, own, other in zip(SIDES, pair, names, owns, others):
            stream.replace(name, graph.create_node("call_module", switch_target(position, side), (own, other),
                                                   name=f"switch_{position}_{side}"))
    heads = []
    for name, stream in streams.items():
        head, path = stream.finish(), f"bridge.{name}.output"
        heads.append(graph.create_node("call_module", path, (head, x), name=f"bridge_{name}_output")
                     if has(root, path) else head)
    graph.output(graph.create_node("call_module", "heads", tuple(heads), name="heads"))
    return fx.GraphModule(root, graph, "Joined")


def has(root: nn.Module, path: str) -> bool:
    try:
        root.get_submodule(path)
    except AttributeError:
        return False
    return True


class _Stream:
    """Copies one parent's nodes into the joined graph in order, remembering what its consumers should read."""

    def __init__(self, graph: fx.Graph, party: str, parent: fx.Graph, x: fx.Node):
        self.graph, self.party = graph, party
        self.pending = [n for n in parent.nodes if n.op != "placeholder"]
        self.raw = {n: x for n in parent.nodes if n.op == "placeholder"}
        self.seen = dict(self.raw)
        self.by_name = {n.name: n for n in parent.nodes}

    def copy_up_to(self, name: str) -> fx.Node:
        """The node's own map, before any switch."""
        if name not in self.by_name:
            raise StitchError(f"the {self.party} network has no layer {name}: plans and network do not belong together")
        while self.by_name[name] not in self.seen:
            if not self.pending:
                raise StitchError(f"match {name} of the {self.party} network is out of order")
            self._copy(self.pending.pop(0))
        return self.raw[self.by_name[name]]

    def finish(self) -> fx.Node:
        while self.pending[0].op != "output":
            self._copy(self.pending.pop(0))
        return self.seen[self.pending[0].args[0]]

    def switched(self, name: str) -> fx.Node:
        """What consumers of a node read up to now."""
        return self.seen[self.by_name[name]]

    def replace(self, name: str, node: fx.Node) -> None:
        self.seen[self.by_name[name]] = node

    def _copy(self, node: fx.Node) -> None:
        def swap(arg):
            return fx.map_arg(arg, self.seen.__getitem__)

        target = f"{self.party}.{node.target}" if node.op in ("call_module", "get_attr") else node.target
        self.raw[node] = self.seen[node] = self.graph.create_node(
            node.op, target, swap(node.args), swap(node.kwargs), name=f"{self.party}_{node.name}")


def prune(joined: fx.GraphModule, setting: Setting, sizes: Mapping[str, float] | None = None,
          gated: bool = False) -> fx.GraphModule:
    """Specialise a joined graph to one setting, in place: what no output needs is neither kept nor computed. Its heads
    and the shares of its switches are set already. With the `sizes` of all values by node name, in any unit, the nodes
    are put into an order that needs little memory. `gated`: every switch that is set stays, for a gate to move."""
    graph = joined.graph
    joined.eval()
    for node in list(graph.nodes):
        if is_switch(node):
            state, (own, other) = setting.state(*position_of(node)), node.args
            if state == "own":
                node.replace_all_uses_with(own)
            elif state == "stitched" and not gated:
                with graph.inserting_before(node):
                    node.replace_all_uses_with(graph.call_module(f"{node.target}.stitch", (other,)))
        elif node.target == "heads" and joined.heads.output is not None:
            node.replace_all_uses_with(node.args[joined.heads.output])
    graph.eliminate_dead_code()
    joined.delete_all_unused_submodules()
    in_place = _work_in_place(joined)
    if sizes is not None:
        reorder(graph, sizes, in_place)
    joined.recompile()
    return joined


def alone(root: nn.Module, parents: Mapping[str, fx.Graph], party: str) -> fx.GraphModule:
    """One of the parents that `join` would join, untouched: the host's input to its answer in the host's terms. Shares
    its leaf modules with `root`, so whatever `prune` lets work in place there does so here."""
    joined = join(root, {n: g for n, g in parents.items() if n == party}, [], ())
    heads = joined.graph.output_node().args[0]
    heads.replace_all_uses_with(heads.args[0])
    joined.graph.eliminate_dead_code()
    joined.delete_all_unused_submodules()
    joined.recompile()
    return joined.eval()


def _work_in_place(joined: fx.GraphModule) -> frozenset[fx.Node]:
    """Let activations and residual sums overwrite maps that nobody else reads, as nnU-Net does; returns them."""
    found, calls = set(), Counter(node.target for node in joined.graph.nodes if node.op == "call_module")
    for node in joined.graph.nodes:
        own = node.all_input_nodes[0] if node.all_input_nodes else None
        alone = own is not None and len(own.users) == 1 and not _may_be_anothers(joined, own)
        if node.op == "call_module" and hasattr(joined.get_submodule(node.target), "inplace"):
            alone = alone and calls[node.target] == 1  # one module may be used at several places
            joined.get_submodule(node.target).inplace = alone
            found |= {node} if alone else set()
        # A norm's output is always a tensor of its own, which an identity's or a dropout's is not.
        elif node.target is operator.add and alone and own.op == "call_module" and isinstance(
                joined.get_submodule(own.target), _NormBase):
            node.target = operator.iadd
            found.add(node)
    return frozenset(found)


def _may_be_anothers(joined: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node may give a tensor that is also another node's, or the user's: an input, a view, what does nothing.
    """
    if node.op == "call_module":
        return isinstance(joined.get_submodule(node.target), (nn.Identity, nn.Flatten, _DropoutNd))
    return node.op != "call_function" or node.target not in (operator.add, operator.iadd, torch.cat)
