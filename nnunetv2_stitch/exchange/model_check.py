"""A model whose files were looked at before its weights are read: what sender and receiver both check. Its network is
the one that the plans describe, within bounds, and that its trainer builds."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from nnunetv2_stitch.devices import trainer_class
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.exchange.plans_check import (
    DATASET,
    PLANS,
    clean_dataset_json,
    clean_plans,
    require_safe_plans,
    resolved_configurations,
    without_foreign_planner,
)
from nnunetv2_stitch.parties.allowed_classes import require_allowed_classes
from nnunetv2_stitch.parties.model_folder import ModelFolder
from nnunetv2_stitch.parties.untrusted_json import (
    IDENTIFIER,
    is_name,
    is_whole,
    printable,
    refused,
    require_modest,
    without_warnings,
)
from nnunetv2_stitch.stitching.description import build_parent

SUPPORTED = ("PlainConvUNet", "ResidualEncoderUNet", "ResidualUNet")
MAX_SETTING = 16384  # channels, kernel sizes, strides
MAX_COUNT = 64  # stages, and convolutions or blocks per stage
MAX_MODULES = 50_000
MAX_PARAMETERS = 2**31
MAX_FEATURE_MAP = 2**32  # values in one feature map of one patch
STOCK = nnUNetTrainer.__name__


@dataclass(frozen=True)
class CheckedModel:
    """`model` has cleaned plans and dataset.json; `network` lies on the meta device; `dropped` says what was cleaned
    away."""

    model: ModelFolder
    network: nn.Module
    dropped: tuple[str, ...]


def check_model(path: str, dataset_name: str, identifier: str, plans: Any, dataset_json: Any,
                folds: tuple[int | str, ...]) -> CheckedModel:
    """Check the contents of plans.json and dataset.json, clean them, and see that the network can be built.

    Nothing that the files name is called before it is known to be one of nnU-Net's own parts.

    Args:
        path: where the model folder is or will be, for later messages.
        dataset_name: the name of the dataset in the cleaned plans.
        identifier: `TRAINER__PLANS__CONFIGURATION`.

    Raises:
        StitchError: the first thing that is wrong.
    """
    names = identifier.split("__")
    if len(names) != 3 or not all(map(is_name, names)):
        raise StitchError(f"model folder {printable(identifier)} has another name than nnU-Net gives: "
                          f"TRAINER__PLANS__CONFIGURATION")
    trainer, plans_name, configuration = names
    for name, value in ((PLANS, plans), (DATASET, dataset_json)):
        require_modest(value, name)
        if not isinstance(value, dict):
            raise refused(name, "is no JSON object")
    resolved = resolved_configurations(plans)
    require_safe_plans(plans, dataset_json, configuration, resolved)
    kept, dropped_plans = clean_plans(without_foreign_planner(plans), configuration, resolved[configuration],
                                      dataset_name, plans_name)
    kept_dataset, dropped_dataset = clean_dataset_json(dataset_json)
    model = ModelFolder(path, dataset_name, trainer, plans_name, configuration, kept, kept_dataset, folds)
    _require_readable_labels(model)
    network = blueprint(model)
    require_network_of_plans(model, network)
    dropped = [f"{PLANS}: {key}" for key in dropped_plans] + [f"{DATASET}: {key}" for key in dropped_dataset]
    return CheckedModel(model, network, tuple(dropped))


def _require_readable_labels(model: ModelFolder) -> None:
    try:
        fits = model.num_outputs > 0
    except Exception as error:  # nnU-Net's own checks, of many types and tones
        raise refused(DATASET, "has labels that nnU-Net cannot read (background 0, regions with regions_class_order, "
                               "ignore highest)") from error
    if not fits:
        raise refused(DATASET, "has no labels")


def blueprint(model: ModelFolder) -> nn.Module:
    """The network of a model folder on torch's meta device: names and shapes of its tensors, and no memory.

    Raises:
        StitchError: the plans ask for a class that is not allowed or cannot be stitched, for absurd sizes, for a
            network that cannot be built, or for one that does not give one output per label at the patch size.
    """
    spec = model.network_spec
    _require_supported(spec)
    _require_modest_arguments(spec)
    with torch.device("meta"), _limited():
        try:
            network = build_parent(spec, model.num_input_channels, model.num_outputs).eval()
        except StitchError:
            raise
        except Exception as error:  # whatever odd arguments lead the network's code to
            raise refused(PLANS, f"describes a network that cannot be built ({_said(error)})") from error
        _require_output(network, model)
    return network


def _require_supported(spec: Mapping) -> None:
    name = str(spec["network_class_name"])
    if name.split(".")[-1] not in SUPPORTED:
        raise StitchError(f"plans.json: network {printable(name)} cannot be stitched; supported are "
                          f"{', '.join(SUPPORTED)}")


def _require_modest_arguments(spec: Mapping) -> None:
    imports = spec["_kw_requires_import"]
    for key, value in spec["arch_kwargs"].items():
        most = MAX_COUNT if key.startswith("n_") else MAX_SETTING
        for leaf in _leaves(value):
            fits = leaf is None or isinstance(leaf, (bool, float)) or is_whole(leaf, 0, most) or (
                isinstance(leaf, str) and key in imports)
            if not fits:
                raise refused(PLANS, f"has {printable(key)} {printable(leaf)} in its architecture (numbers up to "
                                     f"{most} are read)")
        if isinstance(value, list) and len(value) > MAX_COUNT:
            raise refused(PLANS, f"has {len(value)} values of {printable(key)} in its architecture (at most "
                                 f"{MAX_COUNT} are read)")


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _leaves(item)
    else:
        yield value


@contextmanager
def _limited() -> Iterator[None]:
    """Stop whatever builds more modules or parameters than any model has."""
    counts = {"modules": 0, "parameters": 0}

    def count(kind: str, number: int, most: int) -> None:
        counts[kind] += number
        if counts[kind] > most:
            raise refused(PLANS, f"describes a network of more than {most} {kind}")

    hooks = [
        register_module_module_registration_hook(lambda module, name, child: count("modules", 1, MAX_MODULES)),
        register_module_parameter_registration_hook(
            lambda module, name, parameter: count("parameters", parameter.numel(), MAX_PARAMETERS)),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _require_output(network: nn.Module, model: ModelFolder) -> None:
    patch = tuple(model.configuration_manager.patch_size)
    hooks = [module.register_forward_hook(_bounded) for module in network.modules()]
    try:
        with torch.no_grad():
            shape = tuple(network(torch.empty(1, model.num_input_channels, *patch)).shape)
    except StitchError:
        raise
    except Exception as error:
        raise refused(PLANS, f"describes a network that cannot read a patch of {patch} ({_said(error)})") from error
    finally:
        for hook in hooks:
            hook.remove()
    if shape != (1, model.num_outputs, *patch):
        raise refused(PLANS, f"describes a network whose output for a patch of {patch} is of shape {shape}")


def _bounded(module: nn.Module, inputs: tuple, output: Any) -> None:
    if isinstance(output, torch.Tensor) and output.numel() > MAX_FEATURE_MAP:
        raise refused(PLANS, f"describes a network with a feature map of {output.numel()} values")


def _said(error: Exception) -> str:
    return printable(f"{type(error).__name__}: {error}", 150)


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
        with without_warnings():
            found = trainer_class(name)
    except Exception:  # not found, no trainer, or a trainer file of the user's that cannot be imported
        return None
    own = getattr(found, "build_network_architecture", None)
    return None if own in (None, nnUNetTrainer.build_network_architecture) else found
