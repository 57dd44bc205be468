"""Which tensors of a network share one merging coefficient."""

from __future__ import annotations

from collections.abc import Sequence

GRANULARITIES = ("model", "stage", "tensor")
WHOLE, HEADS = "whole network", "heads"


def group_of(name: str, granularity: str) -> str:
    """The group of a tensor by its name, e.g. `decoder.transpconvs.1.weight` -> `decoder 1`.

    A stage is what nnU-Net's networks number: a stage of the encoder; a stage of the decoder with the upsampling before
    it; and all heads together, because those of lower resolution only serve the training.
    """
    if granularity == "model":
        return WHOLE
    if granularity == "tensor":
        return name
    parts = name.split(".")
    if "seg_layers" in parts:
        return HEADS
    number = next((p for p in parts[1:] if p.isdecimal()), None)
    if number is not None:
        return f"{parts[0]} {number}"
    return " ".join(parts[:2]) if len(parts) > 2 else parts[0]


def grouped(names: Sequence[str], granularity: str) -> tuple[list[str], list[int]]:
    """The groups in order of their first tensor, and each tensor's group as an index."""
    groups = list(dict.fromkeys(group_of(n, granularity) for n in names))
    return groups, [groups.index(group_of(n, granularity)) for n in names]
