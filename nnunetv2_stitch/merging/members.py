"""The models that are merged: found, read without running anything in them, and checked to be of one network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from nnunetv2_stitch.bridging.model_properties import output_names
from nnunetv2_stitch.errors import NotMergeableError, StitchError
from nnunetv2_stitch.merging.atlas import Atlas, require_same_tensors
from nnunetv2_stitch.parties.checkpoint import load_parent, load_weights
from nnunetv2_stitch.parties.model_folder import ModelFolder
from nnunetv2_stitch.parties.untrusted_json import printable
from nnunetv2_stitch.stitching.description import build_parent
from nnunetv2_stitch.training.member import Member, read_member, tensors_of


def read_members(models: Sequence[ModelFolder], fold: int | str) -> list[Member]:
    """`read_member` of each model.

    Raises:
        NotMergeableError: networks that differ, naming the tensors or the property.
        StitchError: fewer than two models, one given twice, or see `read_member`.
    """
    if len(models) < 2:
        raise StitchError("give at least two models with -m; one model cannot be merged")
    members: list[Member] = []
    for model, label in zip(models, _labels(models)):
        member = read_member(model, fold, label)
        twin = next((m for m in members if m.sha256 == member.sha256), None)
        if twin:
            raise StitchError(f"{twin.path} and {member.path} are the same checkpoint; give each model once")
        members.append(member)
    require_same_tensors({m.label: m.weights for m in members})
    _require_same_network(members)
    return members


def fedavg_weights(members: Sequence[Member]) -> list[float]:
    """FedAvg's weights: by training cases, or equal where a member does not say how many it had."""
    cases = [m.cases for m in members]
    if any(c is None for c in cases):
        return [1 / len(members)] * len(members)
    return [c / sum(cases) for c in cases]


def make_atlas(members: Sequence[Member], base: str | None = None, granularity: str = "stage") -> Atlas:
    """The members' parameters, each under one name, around the checkpoint `base` or their mean.

    Raises:
        StitchError: weights that do not fit the network of the plans, hold NaN, or differ from the base's.
    """
    network = build_network(members)

    def parameters(weights: Mapping[str, torch.Tensor], path: str) -> dict[str, torch.Tensor]:
        load_weights(network, weights, path)
        return {n: p.detach().float().clone() for n, p in network.named_parameters()}

    around = None
    if base is not None:
        weights = tensors_of(load_parent(base), base)
        require_same_tensors({members[0].label: members[0].weights, "the base": weights})
        around = parameters(weights, base)
    return Atlas([parameters(m.weights, m.path) for m in members], around, granularity, [m.label for m in members])


def build_network(members: Sequence[Member]):
    """The network that all members share, with nnU-Net's initialisation; only classes that are networks are built."""
    model = members[0].model
    return build_parent(model.network_spec, model.num_input_channels, model.num_outputs)


def mirroring_of_all(members: Sequence[Member]) -> tuple[int, ...] | None:
    """Axes along which every member was mirrored in its training."""
    return tuple(sorted(set.intersection(*(set(m.mirroring) for m in members)))) or None


def _labels(models: Sequence[ModelFolder]) -> list[str]:
    """What messages and tables call the models: their datasets, numbered where a name would not tell them apart, from
    each other or from the other rows of a table."""
    names = [printable(m.dataset_name, 80) for m in models]
    return [n if names.count(n) == 1 and n.startswith("Dataset") else f"{n} ({i + 1})" for i, n in enumerate(names)]


def _require_same_network(members: Sequence[Member]) -> None:
    """Equal tensors may still be joined otherwise, by other strides for one; and outputs must mean the same."""
    first = members[0]
    for other in members[1:]:
        a, b = first.model.network_spec, other.model.network_spec
        arguments = [k for k in sorted({*a["arch_kwargs"], *b["arch_kwargs"]})
                     if a["arch_kwargs"].get(k) != b["arch_kwargs"].get(k)]
        if a["network_class_name"] != b["network_class_name"]:
            arguments = ["network_class_name"]
        names = [(output_names(m.model), m.model.channel_names) for m in (first, other)]
        differ = f"{', '.join(arguments)} of their networks differ" if arguments else \
            f"their outputs are {', '.join(names[0][0])} and {', '.join(names[1][0])}" if names[0][0] != names[1][0] \
            else f"their channels are {', '.join(names[0][1])} and {', '.join(names[1][1])}" if names[0] != names[1] \
            else None
        if differ:
            raise NotMergeableError(f"{first.label} and {other.label} cannot be merged, {differ}; stitch them instead "
                                    f"(nnUNetv2_train_stitch)")
