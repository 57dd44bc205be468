"""Trainers that build another network than the plans describe, which no list of tensors would show."""

from __future__ import annotations

import contextlib
import inspect
import io
from copy import deepcopy

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.exchange.plain import IDENTIFIER, printable, without_warnings
from nnunetv2_stitch.parties.allowed_classes import require_allowed_classes
from nnunetv2_stitch.parties.reading import ModelFolder
from nnunetv2_stitch.stitching.network import build_parent

STOCK = nnUNetTrainer.__name__


def require_network_of_plans(model: ModelFolder, network: nn.Module, trainer: str | None = None) -> None:
    """Raises StitchError if the trainer is installed here and builds another network than `network`, or none.

    A trainer may swap layers while it builds (nnUNetTrainerBN puts batch norm in place of what the plans say). A
    trainer that is not installed here cannot be asked; then the weights alone must fit.

    Args:
        trainer: the one that the checkpoint names, where it is read; the folder's is asked always.
    """
    for name in sorted({model.trainer, str(trainer or model.trainer)}):
        found = _changes_network(name)
        if found is None:
            continue
        try:
            with torch.device("meta"), without_warnings():
                built = _built_by(found, model)
        except Exception as error:  # of any type: a trainer is code of anyone's
            raise StitchError(f"trainer {name} builds its network by code of its own, which cannot be compared with "
                              f"plans.json here ({printable(error)}), and only the plans' network can be stitched; "
                              f"train with nnUNetTrainer or another that changes no layers") from error
        if str(built.eval()) != str(network.eval()):
            raise StitchError(f"trainer {name} builds another network than {model.path}/plans.json describes, and only "
                              f"the plans' can be stitched; train with nnUNetTrainer or another that changes no layers")


def network_as_trained(model: ModelFolder, trainer: str | None = None) -> nn.Module:
    """The network as stock nnU-Net builds it for prediction: by the trainer, where that is installed here and does so
    in a way of its own, else from the plans.

    Args:
        trainer: the one that the checkpoint names, None for the folder's.

    Raises:
        StitchError: plans that name a class which may not be built.
    """
    found = _changes_network(str(trainer or model.trainer))
    if found is None:
        return build_parent(model.network_spec, model.num_input_channels, model.num_outputs)
    require_allowed_classes(model.network_spec)
    try:
        return _built_by(found, model)
    except Exception as error:
        raise StitchError(f"trainer {found.__name__} cannot build the network of {model.path} ({printable(error)}); "
                          f"does nnUNetv2_predict_from_modelfolder run it?") from error


def _built_by(trainer: type[nnUNetTrainer], model: ModelFolder) -> nn.Module:
    """As nnUNetPredictor calls it, arguments of nnU-Net before 2.8 included."""
    plans = PlansManager(deepcopy(model.plans))  # some trainers write into what they are given
    configuration = plans.get_configuration(model.configuration)
    if "plans_manager" in inspect.signature(trainer.build_network_architecture).parameters:
        described = plans, configuration
    else:
        described = (configuration.network_arch_class_name, configuration.network_arch_init_kwargs,
                     configuration.network_arch_init_kwargs_req_import)
    return trainer.build_network_architecture(*described, model.num_input_channels, model.num_outputs,
                                              enable_deep_supervision=False)


def _changes_network(name: str) -> type[nnUNetTrainer] | None:
    """The trainer class of this name, if it is installed here and has a way of its own to build networks."""
    if name == STOCK or not IDENTIFIER.fullmatch(name):
        return None
    try:
        with contextlib.redirect_stdout(io.StringIO()), without_warnings():  # it tells where it looks
            found = recursive_find_trainer_class_by_name(name)
    except Exception:  # not found, no trainer, or a trainer file of the user's that cannot be imported
        return None
    own = getattr(found, "build_network_architecture", None)
    return None if own in (None, nnUNetTrainer.build_network_architecture) else found
