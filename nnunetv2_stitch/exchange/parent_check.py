"""What must be true of a model before anything is made of it: one check for every command that takes models."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import torch

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.exchange.plain import without_warnings
from nnunetv2_stitch.exchange.trainer_check import require_network_of_plans
from nnunetv2_stitch.parties.checkpoint import load_parent, load_weights, network_weights
from nnunetv2_stitch.parties.reading import ModelFolder
from nnunetv2_stitch.stitching.network import build_parent


def require_parents(models: Sequence[ModelFolder], folds: Sequence[Iterable[int | str]]) -> None:
    """See that every checkpoint of the folds is one of the network that the model's plans describe, trained as that.

    Raises:
        StitchError: see `require_parent`.
    """
    for model, own in zip(models, folds):
        for fold in sorted(set(own), key=str):
            require_parent(model, fold)


def require_parent(model: ModelFolder, fold: int | str) -> None:
    """What must be true of a model before anything is made of one of its folds; reads the checkpoint, writes nothing.

    Raises:
        StitchError: plans that name a class which may not be built, a checkpoint that is missing or refused, weights
            that are not those of the plans' network, or a trainer that builds another one.
    """
    path = model.checkpoint_path(fold)
    checkpoint = load_parent(path)
    with torch.device("meta"), without_warnings():  # that copying to the meta device does nothing
        network = build_parent(model.network_spec, model.num_input_channels, model.num_outputs)
        require_network_of_plans(model, network, checkpoint.get("trainer_name"))
        load_weights(network, network_weights(checkpoint), path)


def require_different(parties: Sequence[ModelFolder], folds: Sequence[Mapping]) -> None:
    """`folds`: each party's own, by those of the host.

    Raises:
        StitchError: two parties are one model, which has nothing to learn from itself.
    """
    for (one, of_one), (other, of_other) in combinations(zip(parties, folds), 2):
        for fold in of_one:
            paths = [m.checkpoint_path(f[fold]) for m, f in ((one, of_one), (other, of_other))]
            if os.path.samefile(*paths):
                raise StitchError(f"two parties are one model, {paths[0]}; give another party's model, or another fold "
                                  f"of this one with -f_b")
