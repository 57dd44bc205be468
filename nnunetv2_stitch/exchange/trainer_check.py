"""Trainers that build another network than the plans describe, which no list of tensors would show."""

from __future__ import annotations

import contextlib
import io
from copy import deepcopy

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.exchange.plain import IDENTIFIER, without_warnings
from nnunetv2_stitch.parties.reading import ModelFolder

STOCK = nnUNetTrainer.__name__


def require_network_of_plans(model: ModelFolder, network: nn.Module) -> None:
    """Raises StitchError if the model's trainer is installed here and builds another network than `network`.

    A trainer may swap layers while it builds (nnUNetTrainerBN puts batch norm in place of what the plans say). A
    trainer that is not installed here cannot be asked; then the weights alone must fit.
    """
    trainer = _installed(model.trainer)
    if trainer is None or trainer.build_network_architecture is nnUNetTrainer.build_network_architecture:
        return
    plans = PlansManager(deepcopy(model.plans))  # some trainers write into what they are given
    try:
        with torch.device("meta"):
            built = trainer.build_network_architecture(plans, plans.get_configuration(model.configuration),
                                                       model.num_input_channels, model.num_outputs, False)
    except Exception:  # e.g. trainers with the arguments of older nnU-Net versions
        return
    if str(built.eval()) != str(network.eval()):
        raise StitchError(f"trainer {model.trainer} builds another network than plans.json describes, and only the "
                          f"plans' can be stitched; train with nnUNetTrainer or another that changes no layers")


def _installed(name: str) -> type[nnUNetTrainer] | None:
    if name == STOCK or not IDENTIFIER.fullmatch(name):
        return None
    try:
        with contextlib.redirect_stdout(io.StringIO()), without_warnings():  # it tells where it looks
            return recursive_find_trainer_class_by_name(name)
    except Exception:  # not found, no trainer, or a trainer file of the user's that cannot be imported
        return None
