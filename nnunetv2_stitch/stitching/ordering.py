"""In which order a deployed network computes its nodes, so that as little as possible is alive at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations

from torch import fx

from nnunetv2_stitch.graph.nodes import LayerNode
from nnunetv2_stitch.stitching.runner import is_switch

MAX_PERMUTED = 4  # more parties are only rotated


def peak_of(order: Sequence[fx.Node], sizes: Mapping[str, float], in_place: frozenset[fx.Node] = frozenset()) -> float:
    """The largest total size of values that are alive at once, where a value is let go after its last reader.

    `order` is all nodes, input and output included; `sizes` of their values by name, in any unit; nodes `in_place`
    overwrite their first input.
    """
    last = {used: i for i, node in enumerate(order) for used in node.all_input_nodes}
    alive, peak = 0.0, 0.0
    for i, node in enumerate(order):
        used = node.all_input_nodes
        if node not in in_place:
            alive += sizes.get(node.name, 0.0)
        peak = max(peak, alive)
        alive -= sum(sizes.get(n.name, 0.0) for n in used
                     if last[n] == i and not (node in in_place and n is used[0]))
        if node not in last:
            alive -= sizes.get(node.name, 0.0)
    return peak


def reorder(graph: fx.Graph, sizes: Mapping[str, float], in_place: frozenset[fx.Node] = frozenset()) -> float:
    """Put a graph's nodes into the best of the orders that are tried, and return its peak.

    A network of two parents has few sensible orders: a parent that has begun goes on until it needs the other or is
    done. So the graph is walked back from its output, depth first, which finishes one head before it begins the next.
    Which head is the first, and whether a joined layer asks for its own or for the other's map first, is tried out.
    The present order is kept where none is better.
    """
    nodes = list(graph.nodes)
    output = nodes[-1]
    heads = output.all_input_nodes[0].all_input_nodes
    count = len(heads)
    if count <= MAX_PERMUTED:
        starts = list(permutations(heads))
    else:
        starts = [(*heads[i:], *heads[:i]) for i in range(count)]
    best, order = peak_of(nodes, sizes, in_place), nodes
    for start in starts:
        for backwards in (False, True):
            tried = _depth_first(nodes, start, backwards)
            peak = peak_of(tried, sizes, in_place)
            if peak < best:
                best, order = peak, tried
    for node in order[:-1]:
        output.prepend(node)
    return best


def _depth_first(nodes: Sequence[fx.Node], heads: Sequence[fx.Node], backwards: bool) -> list[fx.Node]:
    """All of `nodes`, each behind what it needs. A switch asks for its own map first, or `backwards` for the other's;
    every other node for its inputs in their present order."""
    place = {n: i for i, n in enumerate(nodes)}
    order = [n for n in nodes if n.op == "placeholder"]
    seen = set(order)
    for head in (*heads, nodes[-1]):
        pending = [head]
        while pending:
            node = pending[-1]
            missing = [n for n in node.all_input_nodes if n not in seen]
            if missing:
                asked_first = missing[-1] if backwards else missing[0]
                pending.append(asked_first if is_switch(node) else min(missing, key=place.get))
                continue
            pending.pop()
            # What else is joined of the same two maps, too, so that nobody needs them any longer.
            twins = [u for n in node.all_input_nodes for u in n.users if is_switch(u)] if is_switch(node) else []
            for ready in (node, *twins):
                if ready not in seen and seen.issuperset(ready.all_input_nodes):
                    seen.add(ready)
                    order.append(ready)
    return order


def relative_sizes(layers: Mapping[str, Sequence[LayerNode]], matches: Sequence[Mapping],
                   grids: Mapping[str, float]) -> dict[str, float]:
    """Values per voxel of the input, by node name of the joined graph. `grids` are a party's voxels per voxel of the
    host, 1 where it is not named."""
    sizes = {}
    for party, nodes in layers.items():
        for node in nodes:
            voxels = grids.get(party, 1.0)
            for stride in node.stride:
                voxels /= stride
            sizes[f"{party}_{node.name}"] = node.channels * voxels
    for position, match in enumerate(matches):
        for side, party in (("host", "host"), ("partner", match.get("party", "partner"))):
            own = sizes.get(f"{party}_{match[side]}", 0.0)
            other = "partner" if side == "host" else "host"
            sizes[f"switch_{position}_{side}"] = sizes[f"switches_{position}_{side}_stitch"] = own
            sizes[f"regrid_{position}_{side}"] = own * match[f"{other}_channels"] / match[f"{side}_channels"]
    return sizes
