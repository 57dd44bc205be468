"""Runs a joined graph node by node, for what a plain forward pass cannot do: two streams in step, shared prefixes."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import fx

Env = dict[fx.Node, torch.Tensor]
OnSwitch = Callable[[fx.Node, torch.Tensor, torch.Tensor], torch.Tensor]


class GraphRunner:
    """Node-by-node execution of a GraphModule.

    `nodes` are the nodes between the input and the output in order of execution; a value is dropped after its last
    consumer in that order.
    """

    def __init__(self, joined: fx.GraphModule):
        modules = dict(joined.named_modules())
        self.joined = joined
        nodes = list(joined.graph.nodes)
        self.input = nodes[0]
        self.output = nodes[-1].args[0]
        self.nodes = nodes[1:-1]
        self.index = {node: i for i, node in enumerate(self.nodes)}
        self.modules = {n: modules[n.target] for n in self.nodes if n.op == "call_module"}
        self._drop: list[list[fx.Node]] = [[] for _ in self.nodes]
        for node in nodes[:-1]:
            last = max((self.index[user] for user in node.users if user in self.index), default=None)
            if last is not None and node is not self.output:
                self._drop[last].append(node)

    def step(self, env: Env, index: int, on_switch: OnSwitch | None = None) -> None:
        """Execute node `index`, put its value into `env`, drop what nobody needs any more."""
        node = self.nodes[index]
        if on_switch is not None and is_switch(node):
            own, other = node.args
            env[node] = on_switch(node, env[own], env.get(other))  # no other where its network is left out
        elif node.op == "get_attr":
            path, _, name = node.target.rpartition(".")
            env[node] = getattr(self.joined.get_submodule(path), name)
        else:
            args, kwargs = (fx.map_arg(a, env.__getitem__) for a in (node.args, node.kwargs))
            if node.op == "call_method":
                env[node] = getattr(args[0], node.target)(*args[1:], **kwargs)
            else:
                env[node] = (self.modules[node] if node.op == "call_module" else node.target)(*args, **kwargs)
        self._forget(env, index)

    def _forget(self, env: Env, index: int) -> None:
        for dead in self._drop[index]:
            env.pop(dead, None)

    def run(self, env: Env, start: int = 0, stop: int | None = None, on_switch: OnSwitch | None = None,
            only: Collection[fx.Node] | None = None) -> Env:
        """Execute nodes `start` to `stop` (exclusive), or those of them in `only`, on `env`, in place;
        `{runner.input: x}` starts a pass."""
        for index in range(start, len(self.nodes) if stop is None else stop):
            if only is None or self.nodes[index] in only:
                self.step(env, index, on_switch)
            else:
                self._forget(env, index)
        return env

    def own_path(self, head: fx.Node) -> set[fx.Node]:
        """The nodes that a head depends on where every switch passes its own map."""
        needed, pending = set(), [head]
        while pending:
            node = pending.pop()
            if node not in needed:
                needed.add(node)
                pending += [node.args[0]] if is_switch(node) else node.all_input_nodes
        return needed & self.index.keys()


def is_switch(node: fx.Node) -> bool:
    return node.op == "call_module" and node.target.startswith("switches.")


def position_of(node: fx.Node) -> tuple[int, str]:
    """(position, side) of a switch node."""
    _, position, side = node.target.split(".")
    return int(position), side
