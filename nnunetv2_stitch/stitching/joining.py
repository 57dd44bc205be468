"""Two traced parents -> one joined torch.fx graph with a switch behind every matched layer, and its pruning."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import fx, nn

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.stitching.setting import SIDES, Setting


def switch_target(position: int, side: str) -> str:
    return f"switches.{position}.{side}"


def join(root: nn.Module, host: fx.Graph, partner: fx.Graph, matches: Sequence[tuple[str, str]],
         positions: Iterable[int]) -> fx.GraphModule:
    """Join two graphs: `root` holds `host`, `partner`, `switches.<position>.<side>` and `heads`, and where parties
    differ `bridge.input`, `bridge.output` and `bridge.regrid.<position>.<side>`.

    `matches` are pairs of fx node names, increasing in both graphs. Each stitch reads the raw map before the switch,
    so both directions can be on at once without a cycle; every later consumer, skips included, reads the switch.
    All nodes up to match k precede switch k, and all consumers of it follow: what comes before a position in the
    joined graph does not depend on the switch there. Returns a GraphModule that shares its leaf modules with `root`.
    """
    positions = set(positions)
    graph = fx.Graph()
    x = graph.placeholder("x")
    bridge = getattr(root, "bridge", nn.Module())
    theirs = graph.create_node("call_module", "bridge.input", (x,), name="bridge_input") if has(bridge, "input") else x
    streams = [_Stream(graph, side, parent, start) for side, parent, start in zip(SIDES, (host, partner), (x, theirs))]
    for position, names in enumerate(matches):
        raw = [stream.copy_up_to(name) for stream, name in zip(streams, names)]
        if position not in positions:
            continue
        others = raw[::-1]
        if has(bridge, "regrid"):
            others = [graph.create_node("call_module", f"bridge.regrid.{position}.{side}", (other, x),
                                        name=f"regrid_{position}_{side}") for side, other in zip(SIDES, others)]
        for side, stream, name, own, other in zip(SIDES, streams, names, raw, others):
            stream.replace(name, graph.create_node("call_module", switch_target(position, side), (own, other),
                                                   name=f"switch_{position}_{side}"))
    heads = [s.finish() for s in streams]
    if has(bridge, "output"):
        heads[1] = graph.create_node("call_module", "bridge.output", (heads[1], x), name="bridge_output")
    graph.output(graph.create_node("call_module", "heads", tuple(heads), name="heads"))
    return fx.GraphModule(root, graph, "Joined")


def has(bridge: nn.Module, part: str) -> bool:
    return part in dict(bridge.named_children())


class _Stream:
    """Copies one parent's nodes into the joined graph in order, remembering what its consumers should read."""

    def __init__(self, graph: fx.Graph, side: str, parent: fx.Graph, x: fx.Node):
        self.graph, self.side = graph, side
        self.pending = [n for n in parent.nodes if n.op != "placeholder"]
        self.seen = {n: x for n in parent.nodes if n.op == "placeholder"}
        self.by_name = {n.name: n for n in parent.nodes}

    def copy_up_to(self, name: str) -> fx.Node:
        if name not in self.by_name:
            raise StitchError(f"the {self.side} network has no layer {name}: plans and network do not belong together")
        while self.by_name[name] not in self.seen:
            if not self.pending:
                raise StitchError(f"match {name} of the {self.side} network is out of order")
            self._copy(self.pending.pop(0))
        return self.seen[self.by_name[name]]

    def finish(self) -> fx.Node:
        while self.pending[0].op != "output":
            self._copy(self.pending.pop(0))
        return self.seen[self.pending[0].args[0]]

    def replace(self, name: str, node: fx.Node) -> None:
        self.seen[self.by_name[name]] = node

    def _copy(self, node: fx.Node) -> None:
        def swap(arg):
            return fx.map_arg(arg, self.seen.__getitem__)

        target = f"{self.side}.{node.target}" if node.op in ("call_module", "get_attr") else node.target
        self.seen[node] = self.graph.create_node(node.op, target, swap(node.args), swap(node.kwargs),
                                                 name=f"{self.side}_{node.name}")


def prune(joined: fx.GraphModule, setting: Setting) -> fx.GraphModule:
    """Specialise a joined graph to one setting, in place: what no output needs is neither kept nor computed."""
    graph = joined.graph
    joined.eval()
    for node in list(graph.nodes):
        if node.op != "call_module":
            continue
        if node.target.startswith("switches."):
            _, position, side = node.target.split(".")
            state, (own, other) = setting.state(int(position), side), node.args
            if state == "own":
                node.replace_all_uses_with(own)
            elif state == "stitched":
                with graph.inserting_before(node):
                    node.replace_all_uses_with(graph.call_module(f"{node.target}.stitch", (other,)))
            else:
                joined.get_submodule(node.target).state = state
        elif node.target == "heads" and setting.output != "ensemble":
            node.replace_all_uses_with(node.args[SIDES.index(setting.output)])
    graph.eliminate_dead_code()
    joined.delete_all_unused_submodules()
    _activate_in_place(joined)
    joined.recompile()
    return joined


def _activate_in_place(joined: fx.GraphModule) -> None:
    """Let activations overwrite maps that nobody else reads, as nnU-Net does; less memory traffic."""
    for node in joined.graph.nodes:
        if node.op == "call_module" and hasattr(joined.get_submodule(node.target), "inplace"):
            joined.get_submodule(node.target).inplace = len(node.args[0].users) == 1
