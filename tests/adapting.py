"""A partner that is adapted in a few steps, and the weights that come out."""

from pathlib import Path

import torch

from nnunetv2_stitch.training import adapt_party

NAME = "nnUNetAdaptedPlans"


def adapt(world, partner=None, **arguments):
    """A few steps on the host's images, from the partner's model."""
    arguments = {"device": "cpu", "progress": False, "folds": [0], "epochs": 1, "iterations": 4, "rate": 1e-2,
                 "validate": False, "alpha": None, **arguments}
    return adapt_party(world.host.dataset, str(partner or world.model(world.partner)), **arguments)


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in one.items())


def final(folder: str, fold=0) -> dict:
    return torch.load(Path(folder, f"fold_{fold}", "checkpoint_final.pth"), weights_only=True)["network_weights"]
