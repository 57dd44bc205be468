"""The network that plans describe, without memory for its weights, and only within bounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.exchange.plain import is_whole, printable, refused
from nnunetv2_stitch.parties.reading import ModelFolder
from nnunetv2_stitch.stitching.network import build_parent

SUPPORTED = ("PlainConvUNet", "ResidualEncoderUNet", "ResidualUNet")
MAX_SETTING = 16384  # channels, kernel sizes, strides
MAX_COUNT = 64  # stages, and convolutions or blocks per stage
MAX_MODULES = 50_000
MAX_PARAMETERS = 2**31
MAX_FEATURE_MAP = 2**32  # values in one feature map of one patch
PLANS = "plans.json"


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
