"""What a stitch training and a stitched prediction need in memory, estimated from layers and sizes alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunetv2_stitch.stitching.plans import Layout

FLOAT_BYTES = 4
MAPS_KEPT_PER_SWITCH = 2  # the chosen map and the error, for the backward pass


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes for one training step (batch as planned) and for predicting one patch; feature maps only, in float32.
    Mixed precision needs about half of it."""

    training: int
    prediction: int


def estimate_memory(layout: Layout, positions: Sequence[int], patch_size: Sequence[int],
                    batch_size: int) -> MemoryEstimate:
    """Every map of all parents kept once for the backward pass, two more behind every switch; prediction keeps the
    maps of the widest scale: the skips and three working maps."""
    def voxels(stride):
        return float(np.prod(np.asarray(patch_size) / np.asarray(stride)))

    sizes = {party: {n.name: n.channels * voxels(n.stride) for n in nodes} for party, nodes in layout.nodes.items()}
    maps = [list(s.values()) for s in sizes.values()]
    joined = [layout.matches[p] for p in positions]
    behind = sum(sizes["host"][m.host] + sizes[m.party][m.partner] for m in joined)
    training = FLOAT_BYTES * batch_size * (sum(map(sum, maps)) + MAPS_KEPT_PER_SWITCH * behind)
    skips = [{n.stride: m for n, m in zip(side, values)} for side, values in zip(layout.nodes.values(), maps)]
    prediction = FLOAT_BYTES * (sum(sum(s.values()) for s in skips) + 3 * max(map(max, maps)))
    return MemoryEstimate(int(training), int(prediction))
