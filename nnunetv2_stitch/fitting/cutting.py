"""Where to cut a joined graph for activation checkpointing, so that a training step needs least memory."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch

from nnunetv2_stitch.fitting.live_bytes import LiveBytes
from nnunetv2_stitch.fitting.streams import TwoStreams
from nnunetv2_stitch.stitching.runner import Env, GraphRunner

AUTO = "auto"
SEARCHES = 12  # halvings of the interval that the smallest peak lies in


def equal_cuts(nodes: int, segments: int) -> list[int]:
    """Inner cuts that divide `nodes` nodes into pieces of equal length."""
    return [round(i * nodes / segments) for i in range(1, segments)]


def best_cuts(network, shape: Sequence[int], compared: Collection[int] | None = None,
              dtype: torch.dtype = torch.float32) -> list[int]:
    """Inner cuts for which the largest of `maps kept at the cuts before a piece + maps kept inside the piece` is
    smallest. `network` is a supernet on the meta device under the setting that is trained, `shape` that of a batch,
    `dtype` of the maps; `compared` as in `double_batched_loss`.

    A cut keeps what is alive there in both streams, skips included, but each map only once, however many cuts it is
    alive at; so what cuts keep adds up, and a smallest peak is found by dynamic programming over all nodes within a
    bisection over the peak. Pieces of equal length, or cuts at the networks' stages, are among what is searched.
    """
    runner = GraphRunner(network.joined)
    stop = len(runner.nodes) - 1
    kept, sizes = _kept_by_node(runner, torch.zeros(*shape, device="meta", dtype=dtype), compared, stop)
    new = _new_at_cuts(runner, sizes, stop)
    low, high = 0.0, float(kept[-1])
    best: list[int] = []
    for _ in range(SEARCHES):
        middle = (low + high) / 2
        found = _cuts_within(middle, kept, new, stop)
        if found is None:
            low = middle
        else:
            best, high = found, middle
    return best


def cuts_of_step(network, x: torch.Tensor, compared: Collection[int] | None = None) -> list[int]:
    """`best_cuts` of a supernet anywhere, for a step on the batch `x` in the precision that autocast gives it now."""
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    with torch.autocast(device, enabled=False):
        return best_cuts(network.without_memory().to(dtype), tuple(x.shape), compared, dtype)


def _kept_by_node(runner: GraphRunner, x: torch.Tensor, compared, stop: int) -> tuple[np.ndarray, dict]:
    """Bytes that the stitched stream keeps for the backward pass before each node, and every value's bytes."""
    kept, sizes = np.zeros(stop + 1), {runner.input: x.nbytes}
    stitched: Env = {runner.input: x}
    reference: Env = {runner.input: x}
    streams, terms = TwoStreams(runner, compared), []
    with LiveBytes() as live:
        for i, node in enumerate(runner.nodes[:stop]):
            terms += streams.run(reference, stitched, i, i + 1)
            sizes[node] = sum(v.nbytes for env in (stitched, reference) if (v := env.get(node)) is not None)
            kept[i + 1] = live.now - sum(v.nbytes for v in reference.values() if v is not x)
    return np.maximum.accumulate(kept), sizes


def _new_at_cuts(runner: GraphRunner, sizes: dict, stop: int) -> np.ndarray:
    """`(stop + 1, stop + 1)`: bytes made at or after node `s` that are alive at a cut before node `e`."""
    alive = np.zeros((stop + 1, stop + 1))
    for node, size in sizes.items():
        made = runner.index.get(node, -1)
        last = max((min(runner.index.get(u, stop), stop) for u in node.users), default=made)
        if made >= 0:
            alive[made, made + 1:last + 1] += size
    return alive[::-1].cumsum(0)[::-1]


def _cuts_within(peak: float, kept: np.ndarray, new: np.ndarray, stop: int) -> list[int] | None:
    """Inner cuts under which no piece exceeds `peak`, with least kept at cuts; None if there are none."""
    held, before = np.full(stop + 1, np.inf), np.full(stop + 1, -1)
    held[0] = 0
    for end in range(1, stop + 1):
        starts = np.arange(end)
        # At the end of its forward pass a piece holds all it keeps, its outputs, and the maps at the cuts before it.
        fits = held[:end] + kept[end] - kept[:end] + new[:end, end] <= peak
        total = np.where(fits, held[:end] + new[:end, end], np.inf)
        before[end] = starts[total.argmin()]
        held[end] = total.min()
    if not np.isfinite(held[stop]):
        return None
    cuts, at = [], int(before[stop])
    while at > 0:
        cuts.append(at)
        at = int(before[at])
    return cuts[::-1]
