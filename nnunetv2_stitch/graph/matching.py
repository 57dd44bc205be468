"""Which layers of two networks may be joined: an order-preserving matching by dynamic programming.

Known from the paper (arXiv 2512.17592): layers are matched on positional progress, at the same spatial scale and
without creating a cycle. Ours: the score, the longest path as measure of progress, and a plain dynamic programme,
which is optimal among order-preserving matchings. Such a matching never creates a cycle, because every match joins
two points of one common order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.graph.nodes import LayerNode

ROUNDING = 1e-6


@dataclass(frozen=True)
class Match:
    """A pair of layers, of the host and of one partner, that may be joined. `host` and `partner` are fx node names;
    strides are cumulative, per axis of each network. `party` is what this partner is called in the stitched network."""

    host: str
    partner: str
    host_path: str
    partner_path: str
    host_channels: int
    partner_channels: int
    score: float
    host_stride: tuple[float, ...] = ()
    partner_stride: tuple[float, ...] = ()
    party: str = "partner"


def match_score(progress_a: float, progress_b: float) -> float:
    """Score of one pair in [0.5, 1]: `0.5 + 0.5 * (1 - (p_a - p_b)^2)`. Every pair is worth something, so that the
    number of matches counts, and layers at the same progress are worth most."""
    return 0.5 + 0.5 * (1.0 - (progress_a - progress_b) ** 2)


def score_matrix(nodes_a: Sequence[LayerNode], nodes_b: Sequence[LayerNode], ratio: Sequence[float] = (),
                 axes: Sequence[int] = ()) -> np.ndarray:
    """Scores `(len(nodes_a), len(nodes_b))` of all pairs, minus infinity where the physical scales differ. Vectors go
    with vectors alone, and a map that has a size of its own with maps of that size.

    For parents whose grids differ, `ratio` is b's voxels per voxel of a, by axis of b, and `axes` for each axis of b
    that of a. With other voxel sizes no scales are equal: those count as equal that are at most half a halving apart on
    the mean over axes, and at most one on any.
    """
    dims = max(len(n.stride) for n in (*nodes_a, *nodes_b))
    strides_a, strides_b = (np.array([_moving(n.stride, dims) for n in nodes]).reshape(len(nodes), dims)
                            for nodes in (nodes_a, nodes_b))
    scales_a = strides_a[:, list(axes) if axes else slice(None)] * (np.array(ratio) if len(ratio) else 1.0)
    halvings = np.log2(scales_a[:, None] / strides_b[None])
    if all(r == 1 for r in ratio):
        allowed = (np.abs(halvings) <= ROUNDING).all(-1)
    else:
        allowed = (np.abs(halvings.mean(-1)) <= 0.5 + ROUNDING) & (np.abs(halvings) <= 1 + ROUNDING).all(-1)
    kinds_a, kinds_b = ([_kind(n) for n in nodes] for nodes in (nodes_a, nodes_b))
    if len({*kinds_a, *kinds_b}) > 1:
        allowed &= np.array([[a == b for b in kinds_b] for a in kinds_a])
    p_a = np.array([n.progress for n in nodes_a])[:, None]
    p_b = np.array([n.progress for n in nodes_b])[None]
    return np.where(allowed, match_score(p_a, p_b), -np.inf)


def _moving(stride: Sequence[float], dims: int) -> tuple[float, ...]:
    """1 along axes that are not there or do not follow the input's size; `_kind` tells those apart."""
    return (*(1.0 if math.isinf(s) else s for s in stride), *[1.0] * (dims - len(stride)))


def _kind(node: LayerNode) -> tuple:
    """How many axes a map has, and the sizes of those that do not follow the input's."""
    sizes = node.sizes or [()] * len(node.stride)
    return tuple(size[0] if math.isinf(s) else None for s, size in zip(node.stride, sizes))


def order_preserving_matching(scores: np.ndarray) -> list[tuple[int, int]]:
    """Index pairs, increasing in both, with the largest sum of `scores` (n, m); minus infinity forbids a pair.

    O(n m) time and memory. Vectorised by rows: along a row the recurrence
    `best[i, j] = max(best[i-1, j], best[i, j-1], best[i-1, j-1] + score)` is a running maximum.
    """
    n, m = scores.shape
    best = np.zeros((n + 1, m + 1))
    for i in range(n):
        taken = best[i, :-1] + scores[i]
        best[i + 1, 1:] = np.maximum.accumulate(np.maximum(best[i, 1:], taken))
    pairs, i, j = [], n, m
    while i and j:
        if best[i, j] == best[i - 1, j]:
            i -= 1
        elif best[i, j] == best[i, j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            pairs.append((i, j))
    return pairs[::-1]


def match_layers(nodes_a: Sequence[LayerNode], nodes_b: Sequence[LayerNode], positions: str = "all",
                 ratio: Sequence[float] = (), axes: Sequence[int] = ()) -> list[Match]:
    """The matches of two networks in order of the network; their index is the *position*.

    Args:
        nodes_a, nodes_b: layers of either network, see `graph.layer_nodes`.
        positions: `all` joins every layer, `blocks` only the outputs of activations, one per convolution block.
        ratio: b's voxels per voxel of a, by axis of b, where the images of the two have different voxels.
        axes: for each axis of b that of a, where they differ.

    Raises:
        StitchError: `positions` is neither.

    Example:
        >>> from nnunetv2_stitch.graph import layer_nodes, trace
        >>> match_layers(layer_nodes(trace(network_a), 1), layer_nodes(trace(network_b), 1))
    """
    if positions not in ("all", "blocks"):
        raise StitchError(f"positions must be 'all' or 'blocks', not {positions!r}")

    def wanted(node: LayerNode) -> bool:
        return node.stitchable and (positions == "all" or node.activation)

    nodes_a, nodes_b = [n for n in nodes_a if wanted(n)], [n for n in nodes_b if wanted(n)]
    if not nodes_a or not nodes_b:
        return []
    scores = score_matrix(nodes_a, nodes_b, ratio, axes)
    return [
        Match(nodes_a[i].name, nodes_b[j].name, nodes_a[i].path, nodes_b[j].path, nodes_a[i].channels,
              nodes_b[j].channels, round(float(scores[i, j]), 6), nodes_a[i].stride, nodes_b[j].stride)
        for i, j in order_preserving_matching(scores)
    ]


def match_star(nodes: Mapping[str, Sequence[LayerNode]], positions: str = "all",
               grids: Mapping[str, tuple] | None = None) -> list[Match]:
    """The matches of a host, which comes first, with each of its partners, in order of the host's layers. `grids`:
    `ratio` and `axes` of the partners whose grids differ, as in `match_layers`."""
    (_, layers), *partners = nodes.items()
    matches = [replace(m, party=name) for name, theirs in partners
               for m in match_layers(layers, theirs, positions, *(grids or {}).get(name, ()))]
    order = {n.name: i for i, n in enumerate(layers)}
    return sorted(matches, key=lambda m: order[m.host])  # stable: partners keep their order
