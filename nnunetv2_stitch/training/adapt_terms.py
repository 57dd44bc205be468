"""The partner's network in the host's terms: its channels in the host's order, its outputs those of the host's labels.

Everything between the first convolution and the heads is taken as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from nnunetv2_stitch.bridging.model_properties import output_names
from nnunetv2_stitch.bridging.names import NameMaps, match_names
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.parties.checkpoint import HEAD
from nnunetv2_stitch.parties.model_folder import ModelFolder
from nnunetv2_stitch.parties.untrusted_json import without_warnings
from nnunetv2_stitch.stitching.description import build_parent


def channel_sources(host: Sequence[str], partner: ModelFolder, maps: NameMaps) -> list[int | None]:
    """For each of the host's channels the partner's of that name, None where it knows none.

    Raises:
        StitchError: a channel of the partner that the host lacks, or one of the host's that stands for several.
    """
    found = match_names(host, partner.channel_names, maps.channels, "channel")
    if found.unmatched:
        raise StitchError(f"{partner.path} needs channel {', '.join(found.unmatched)}, which the host lacks (it has "
                          f"{', '.join(host)}), so it cannot be adapted; if it has another name, give -channel_map")
    twice = next((n for n, sources in zip(host, found.sources) if len(sources) > 1), None)
    if twice is not None:
        raise StitchError(f"channel {twice} of the host stands for several of {partner.path}; give each its own with "
                          f"-channel_map")
    return [sources[0] if sources else None for sources in found.sources]


def output_sources(host: ModelFolder, partner: ModelFolder, maps: NameMaps) -> list[list[int]]:
    """For each of the host's outputs the partner's that mean it; none for labels that only the host has.

    Args:
        host: plans and dataset.json of the host.

    Raises:
        StitchError: regions on one side and labels on the other, or no label in common.
    """
    regions = [p.label_manager.has_regions for p in (host, partner)]
    if regions[0] != regions[1]:
        kinds = ["regions" if r else "labels" for r in regions]
        raise StitchError(f"{host.dataset_name} is trained on {kinds[0]} and {partner.path} on {kinds[1]}: regions "
                          f"overlap and labels do not, so it cannot be adapted; stitching cannot join them either")
    names = [output_names(p) for p in (host, partner)]
    found = match_names(*names, maps.labels, "label")
    if not regions[0] and 0 not in found.sources[0]:
        raise StitchError("background must be background; check -label_map")
    if not any(found.sources[0 if regions[0] else 1:]):
        raise StitchError(f"no label of {partner.path} ({', '.join(names[1])}) has the name of one of the host's "
                          f"({', '.join(names[0])}); if they mean the same, give -label_map")
    return [list(sources) for sources in found.sources]


def input_tensors(spec: Mapping, channels: int, outputs: int) -> set[str]:
    """Names of the tensors `(out, in, ...)` that read the image."""
    with torch.device("meta"), without_warnings():
        one, other = (build_parent(spec, c, outputs).state_dict() for c in (channels, channels + 1))
    return {name for name, tensor in one.items() if tensor.shape != other[name].shape}


def in_terms(weights: Mapping[str, torch.Tensor], initial: Mapping[str, torch.Tensor], inputs: set[str],
             channels: Sequence[int | None], outputs: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    """The partner's weights as those of the host's network.

    Several outputs of the partner for one of the host become their mean. What only the host has begins as `initial`,
    an output, or as zeros, a channel: at first the network does not look at it.

    Args:
        weights: the partner's, by name.
        initial: the host's network as nnU-Net initialises it, by name; its shapes are taken.
        inputs: see `input_tensors`.
        channels, outputs: see `channel_sources` and `output_sources`.
    """
    mapped = {}
    for name, own in initial.items():
        if name not in weights:
            continue  # whoever loads them says so
        given = weights[name]
        if HEAD.fullmatch(name):
            value = own.detach().cpu().clone()
            for i, sources in enumerate(outputs):
                if len(sources):
                    value[i] = given[list(sources)].mean(0)
        elif name in inputs:
            value = torch.zeros(own.shape, dtype=own.dtype)
            for i, source in enumerate(channels):
                if source is not None:
                    value[:, i] = given[:, source]
        else:
            value = given
        mapped[name] = value
    return mapped
