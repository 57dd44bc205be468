"""Two networks and the layers of them that were matched."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nnunetv2_stitch.figures.style import BLUE, ORANGE, VERMILLION, new_figure, own_style, write

GAP = 1.6  # between the deepest layers of both networks, in octaves of stride


def matches_by_partner(layout: Any, folder: str, chosen: Sequence[int] = ()) -> list[str]:
    """`matches.png` in `folder`, and `matches_partner2.png` and so on for further partners. `layout`: `nodes` by name,
    host first, and `pairs(name)`, as `stitching.plans.Layout`; `chosen`: selected positions."""
    host, *partners = layout.nodes
    paths = []
    for party in partners:
        pairs = layout.pairs(party)
        name = "matches.png" if party == partners[0] else f"matches_{party}.png"
        paths.append(matches(layout.nodes[host], layout.nodes[party], pairs, os.path.join(folder, name),
                             next((p for p in chosen if p in pairs), None), party))
    return paths


@own_style
def matches(nodes_a: Sequence[Any], nodes_b: Sequence[Any], pairs: Mapping[int, tuple[int, int]], path: str,
            chosen: int | None = None, partner: str = "partner") -> str:
    """Draw the host above and the partner below, the second upside down, so that their deepest layers face each other.

    Across is the progress through the network, up and down the stride, which shows each U-Net as its U. A line is a
    match.

    Args:
        nodes_a, nodes_b: layers with `progress` in 0..1, `stride` (per axis) and `name`, as `graph.layer_nodes` gives.
        pairs: matched layers by position, as indices into both lists.
        path: PNG to write.
        chosen: the selected position; None marks nothing.
        partner: what the second is called.
    """
    figure = new_figure(10, 5.6)
    axes = figure.add_subplot()
    depth_a, depth_b = _depth(nodes_a), _depth(nodes_b)
    bottom = depth_a.max() + GAP + depth_b.max()
    points_a = np.column_stack([[n.progress for n in nodes_a], depth_a])
    points_b = np.column_stack([[n.progress for n in nodes_b], bottom - depth_b])
    for number, (a, b) in pairs.items():
        marked = number == chosen
        axes.plot([points_a[a, 0], points_b[b, 0]], [points_a[a, 1], points_b[b, 1]], zorder=3 if marked else 1,
                  color=VERMILLION if marked else "0.72", linewidth=2.4 if marked else 0.7)
    for points, colour, name, where in ((points_a, BLUE, "host", [a for a, _ in pairs.values()]),
                                        (points_b, ORANGE, partner, [b for _, b in pairs.values()])):
        matched = np.zeros(len(points), dtype=bool)
        matched[list(where)] = True
        axes.plot(points[:, 0], points[:, 1], color=colour, linewidth=0.8, alpha=0.5, zorder=2)
        axes.scatter(*points[matched].T, s=22, color=colour, zorder=4, label=f"{name}: {matched.sum()} matched layers")
        axes.scatter(*points[~matched].T, s=22, facecolors="white", edgecolors=colour, zorder=4,
                     label=f"{name}: {(~matched).sum()} others")
    title = f"{len(pairs)} matches"
    if chosen is not None:
        a, b = pairs[chosen]
        title += f"; chosen: position {chosen}, {_name(nodes_a[a])} with {_name(nodes_b[b])}"
    axes.set_title(title, fontsize=10)
    ticks_a, ticks_b = np.arange(np.ceil(depth_a.max()) + 1), np.arange(np.ceil(depth_b.max()) + 1)
    axes.set_yticks([*ticks_a, *(bottom - ticks_b)], [f"{2 ** t:g}" for t in [*ticks_a, *ticks_b]])
    axes.invert_yaxis()
    axes.set_ylabel("stride (partner upside down)")
    axes.set_xlabel("progress through the network")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return write(figure, path)


def _depth(nodes: Sequence[Any]) -> np.ndarray:
    """Octaves of cumulative stride, the mean over axes where they differ."""
    return np.array([np.mean(np.log2(node.stride)) for node in nodes])


def _name(node: Any) -> str:
    return getattr(node, "path", None) or node.name
