"""plans.json and dataset.json of a model that travels: what of them travels, and whether a receiver may read them."""

from __future__ import annotations

import inspect
import math
from copy import deepcopy
from functools import lru_cache
from os.path import join
from typing import Any

import nnunetv2
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.preprocessing.normalization.default_normalization_schemes import ImageNormalization
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.parties.allowed_classes import require_allowed_classes
from nnunetv2_stitch.parties.untrusted_json import (
    ENDING,
    IDENTIFIER,
    MAX_TEXT,
    is_name,
    is_number,
    is_whole,
    printable,
    refused,
)

PLANS_KEYS = ("image_reader_writer", "transpose_forward", "transpose_backward", "experiment_planner_used",
              "label_manager")
INTENSITIES = "foreground_intensity_properties_per_channel"
OLD_INTENSITIES = "foreground_intensity_properties_by_modality"
READ_INTENSITIES = ("mean", "std", "percentile_00_5", "percentile_99_5")  # by CTNormalization; other schemes read none
RESAMPLING = ("resampling_fn_data", "resampling_fn_seg", "resampling_fn_probabilities")
CONFIGURATION_KEYS = ("data_identifier", "preprocessor_name", "batch_size", "patch_size", "spacing",
                      "normalization_schemes", "use_mask_for_norm", "batch_dice",
                      *(key + end for key in RESAMPLING for end in ("", "_kwargs")))
ARCHITECTURE_KEYS = ("network_class_name", "arch_kwargs", "_kw_requires_import")
DATASET_KEYS = ("channel_names", "modality", "labels", "regions_class_order", "numTraining", "file_ending",
                "overwrite_image_reader_writer", "name", "reference", "licence", "license")
TEXTS = ("name", "reference", "licence", "license")  # of a dataset, for people
PACKAGES = {
    "image_reader_writer": ("imageio", BaseReaderWriter),
    "label_manager": ("utilities.label_handling", LabelManager),
    "experiment_planner_used": ("experiment_planning.experiment_planners", ExperimentPlanner),
    "preprocessor_name": ("preprocessing.preprocessors", DefaultPreprocessor),
    "normalization_schemes": ("preprocessing.normalization", ImageNormalization),
    **{key: ("preprocessing.resampling", None) for key in RESAMPLING},
}
IN_PLANS = ("image_reader_writer", "label_manager")
READER, PLANNER = "image_reader_writer", "experiment_planner_used"
MAX_CHANNELS, MAX_CHANNEL_KEY, MAX_LABELS, MAX_LABEL = 64, 64, 1024, 65535
MAX_PATCH_SIDE, MAX_PATCH_VOXELS = 16384, 2**27
MAX_ARGUMENT = 1024  # of a resampling function
PLANS, DATASET = "plans.json", "dataset.json"


def what_travels(plans: dict, dataset_json: dict, configuration: str,
                 resolved: dict) -> tuple[dict, dict, list[str]]:
    """One's own files without what does not travel, so that no check stops on it; and what was dropped.

    Args:
        resolved: the one configuration that travels, with what it inherits.
    """
    per_channel = {key: plans[key] for key in (INTENSITIES, OLD_INTENSITIES) if isinstance(plans.get(key), dict)}
    kept = {key: plans[key] for key in (*PLANS_KEYS, "dataset_name", "plans_name") if key in plans}
    kept["configurations"] = {configuration: {k: v for k, v in resolved.items() if k != "inherits_from"}}
    kept |= {key: {channel: {k: v for k, v in values.items() if k in READ_INTENSITIES}
                   for channel, values in channels.items() if isinstance(values, dict)}
             for key, channels in per_channel.items()}
    kept_dataset = {key: value for key, value in dataset_json.items() if key in DATASET_KEYS and value is not None
                    and (key not in TEXTS or isinstance(value, str) and len(value) <= MAX_TEXT)
                    and (key != "numTraining" or is_whole(value, 0, 10**9))}
    dropped = [f"plans.json: {key}" for key in sorted(set(plans) - set(kept))]
    dropped += [f"plans.json: configurations.{name}" for name in plans["configurations"] if name != configuration]
    unread = sorted({k for channels in per_channel.values() for values in channels.values() if isinstance(values, dict)
                     for k in values} - set(READ_INTENSITIES))
    dropped += [f"plans.json: {INTENSITIES}: {', '.join(unread)}"] if unread else []
    return kept, kept_dataset, dropped + [f"dataset.json: {key}" for key in sorted(set(dataset_json)
                                                                                   - set(kept_dataset))]


def clean_plans(plans: dict, configuration: str, resolved: dict, dataset_name: str,
                plans_name: str) -> tuple[dict, list[str]]:
    """The plans with one configuration and known keys only, and the names of the keys that were dropped.

    Args:
        plans: contents of a plans.json.
        configuration: the one to keep.
        resolved: this configuration with what it inherits, as nnU-Net's ConfigurationManager holds it.
        dataset_name, plans_name: what the result is called, whatever the plans say.
    """
    kept: dict[str, Any] = {"dataset_name": dataset_name, "plans_name": plans_name}
    kept |= {key: deepcopy(plans[key]) for key in PLANS_KEYS if key in plans}
    settings = {key: deepcopy(resolved[key]) for key in CONFIGURATION_KEYS if key in resolved}
    architecture = resolved.get("architecture", {})
    settings["architecture"] = {key: deepcopy(architecture[key]) for key in ARCHITECTURE_KEYS if key in architecture}
    kept["configurations"] = {configuration: settings}
    per_channel = plans.get(INTENSITIES, plans.get(OLD_INTENSITIES)) or {}
    # Smallest and largest value are those of a single voxel of a single case, and nothing reads them.
    kept[INTENSITIES] = {channel: {key: values[key] for key in READ_INTENSITIES if key in values}
                         for channel, values in per_channel.items()}
    dropped = sorted(set(plans) - set(kept) - {OLD_INTENSITIES})
    dropped += [f"configurations.{name}" for name in plans["configurations"] if name != configuration]
    dropped += [f"{configuration}.{key}" for key in sorted(set(resolved) - set(settings) - {"inherits_from"})]
    dropped += [f"{configuration}.architecture.{key}" for key in sorted(set(architecture) - set(ARCHITECTURE_KEYS))]
    unread = sorted({key for values in per_channel.values() for key in values} - set(READ_INTENSITIES))
    dropped += [f"{INTENSITIES}: {', '.join(unread)}"] if unread else []
    return kept, dropped


def clean_dataset_json(dataset_json: dict) -> tuple[dict, list[str]]:
    """dataset.json with known keys only, and the names of the keys that were dropped."""
    kept = {key: deepcopy(dataset_json[key]) for key in DATASET_KEYS if key in dataset_json}
    return kept, sorted(set(dataset_json) - set(kept))


def require_stock_names(plans: dict, configuration: dict, dataset_json: dict) -> None:
    """Refuse plans that name anything but what the nnU-Net installed here has of that kind.

    nnU-Net takes such a name to be a class and calls it, and finds under it whatever its modules have imported.

    A planner of the sender's own is no reason to refuse: nothing looks it up, and `without_foreign_planner` drops it.

    Raises:
        StitchError: names the key and the value.
    """
    named = [(key, plans[key]) for key in IN_PLANS if key in plans]
    planner = plans.get(PLANNER, "ExperimentPlanner")
    if not (isinstance(planner, str) and IDENTIFIER.fullmatch(planner)):
        raise _not_stock(PLANNER, planner)
    named += [(key, configuration[key]) for key in ("preprocessor_name", *RESAMPLING) if key in configuration]
    schemes = configuration.get("normalization_schemes")
    if not isinstance(schemes, list):
        raise _not_stock("normalization_schemes", schemes)
    named += [("normalization_schemes", scheme) for scheme in schemes]
    for key, value in named:
        if not is_stock(key, value):
            raise _not_stock(key, value)
    reader = dataset_json.get("overwrite_image_reader_writer", "None")
    if reader != "None" and not is_stock(READER, reader):
        raise StitchError(f"dataset.json: overwrite_image_reader_writer '{printable(reader)}' is not one of nnU-Net's "
                          f"own; remove it from dataset.json")


def without_foreign_planner(plans: dict) -> dict:
    """A planner that nnU-Net does not have served the sender only; everything that it planned is in the plans."""
    return plans if is_stock(PLANNER, plans.get(PLANNER)) else {k: v for k, v in plans.items() if k != PLANNER}


def is_stock(key: str, value: Any) -> bool:
    """Whether the installed nnU-Net has something of this name and of the kind that `key` asks for."""
    return isinstance(value, str) and IDENTIFIER.fullmatch(value) is not None and _find_stock(key, value)


@lru_cache(maxsize=1000)
def _find_stock(key: str, name: str) -> bool:
    package, base = PACKAGES[key]
    found = recursive_find_python_class(join(nnunetv2.__path__[0], *package.split(".")), name, f"nnunetv2.{package}")
    if base is None:
        return inspect.isfunction(found) and found.__module__.startswith(f"nnunetv2.{package}.") and "resampl" in name
    return isinstance(found, type) and issubclass(found, base) and found.__module__.startswith("nnunetv2.")


def _not_stock(key: str, value: Any) -> StitchError:
    return StitchError(f"plans.json: {key} '{printable(value)}' is not one of nnU-Net's own, and only those are "
                       f"allowed in a model that travels; use a model that was planned with stock nnU-Net")


def resolved_configurations(plans: dict) -> dict[str, dict]:
    """Every configuration of a plans file with what it inherits, plans of older nnU-Net versions translated.

    Raises:
        StitchError: not a plans file of nnU-Net v2.
    """
    described = plans.get("configurations")
    if not isinstance(described, dict) or not all(isinstance(c, dict) for c in described.values()):
        raise refused(PLANS, "has no readable configurations")
    manager = PlansManager(plans)
    try:
        return {name: manager.get_configuration(name).configuration for name in described}
    except Exception as error:  # nnU-Net checks nothing, so any type of error may come from here
        raise refused(PLANS, f"describes no network ({printable(error)})") from error


def require_safe_plans(plans: dict, dataset_json: dict, configuration: str, resolved: dict[str, dict]) -> None:
    """All names in the plans may be looked up, in every configuration; and the values of `configuration` make sense.

    Raises:
        StitchError: names the first key that is wrong.
    """
    if configuration not in resolved:
        raise refused(PLANS, f"does not describe configuration {printable(configuration)}")
    for name, described in resolved.items():
        architecture = described.get("architecture")
        if not is_name(name) or not isinstance(architecture, dict):
            raise refused(PLANS, f"has no readable architecture in configuration {printable(name)}")
        require_allowed_classes(architecture)
        require_stock_names(plans, described, dataset_json)
    channels = _require_dataset(dataset_json)
    _require_values(resolved[configuration], channels)
    for key in ("transpose_forward", "transpose_backward"):
        if not isinstance(plans.get(key), list) or sorted(map(str, plans[key])) != ["0", "1", "2"]:
            raise refused(PLANS, f"has a {key} that is no order of three axes")
    intensities = plans.get(INTENSITIES, plans.get(OLD_INTENSITIES))
    if not isinstance(intensities, dict) or not all(
            key.isdecimal() and isinstance(values, dict) and all(map(is_number, values.values()))
            for key, values in intensities.items()):
        raise refused(PLANS, f"has no numbers per channel in {INTENSITIES}")


def _require_values(configuration: dict, channels: int) -> None:
    patch = configuration.get("patch_size")
    dim = len(patch) if isinstance(patch, list) else 0
    if dim not in (2, 3) or not all(is_whole(p, 1, MAX_PATCH_SIDE) for p in patch) or math.prod(patch) > \
            MAX_PATCH_VOXELS:
        raise refused(PLANS, f"has the patch_size {printable(patch)}")
    spacing = configuration.get("spacing")
    if not isinstance(spacing, list) or len(spacing) != dim or not all(is_number(s) and s > 0 for s in spacing):
        raise refused(PLANS, f"has the spacing {printable(spacing)}")
    if not is_whole(configuration.get("batch_size"), 1, 100_000):
        raise refused(PLANS, f"has the batch_size {printable(configuration.get('batch_size'))}")
    if not is_name(configuration.get("data_identifier")):
        raise refused(PLANS, f"has the data_identifier {printable(configuration.get('data_identifier'))}")
    masks = configuration.get("use_mask_for_norm")
    if not isinstance(masks, list) or not all(isinstance(m, bool) for m in masks):
        raise refused(PLANS, "has a use_mask_for_norm that is no list of true and false")
    if len(masks) != channels or len(configuration["normalization_schemes"]) != channels:
        raise refused(PLANS, f"normalises another number of channels than the {channels} of dataset.json")
    if not isinstance(configuration.get("batch_dice", True), bool):
        raise refused(PLANS, "has a batch_dice that is neither true nor false")
    for key in RESAMPLING:
        arguments = configuration.get(f"{key}_kwargs", {})
        if not isinstance(arguments, dict) or not all(
                IDENTIFIER.fullmatch(k) and (v is None or isinstance(v, (bool, float)) or is_whole(v, 0, MAX_ARGUMENT)
                                             or (isinstance(v, str) and IDENTIFIER.fullmatch(v)))
                for k, v in arguments.items()):
            raise refused(PLANS, f"has {key}_kwargs that are no plain settings")
    if configuration.get("previous_stage") is not None:
        raise StitchError("this model is the second stage of a cascade, which cannot be stitched; use 2d, 3d_lowres or "
                          "3d_fullres")


def _require_dataset(dataset_json: dict) -> int:
    """Number of channels."""
    # Keys say nothing: nnU-Net goes by order, and by the name of its first versions before the present one.
    channels = dataset_json["modality"] if "modality" in dataset_json else dataset_json.get("channel_names")
    if not isinstance(channels, dict) or not 1 <= len(channels) <= MAX_CHANNELS or not all(
            isinstance(v, str) for v in channels.values()) or any(len(k) > MAX_CHANNEL_KEY for k in channels):
        raise refused(DATASET, f"has no channel_names (at most {MAX_CHANNELS})")
    labels = dataset_json.get("labels")
    values = labels.values() if isinstance(labels, dict) else [None]
    flat = [x for v in values for x in (v if isinstance(v, list) else [v])]
    if not 2 <= len(list(values)) <= MAX_LABELS or not flat or not all(is_whole(x, 0, MAX_LABEL) for x in flat):
        raise refused(DATASET, f"has no labels with values from 0 to {MAX_LABEL} (at most {MAX_LABELS})")
    order = dataset_json.get("regions_class_order")
    if order is not None and not (isinstance(order, list) and all(is_whole(x, 0, MAX_LABEL) for x in order)):
        raise refused(DATASET, "has a regions_class_order that is no list of labels")
    ending = dataset_json.get("file_ending")
    if not isinstance(ending, str) or not ENDING.fullmatch(ending):
        raise refused(DATASET, f"has the file_ending {printable(ending)}")
    if not is_whole(dataset_json.get("numTraining", 0), 0, 10**9):
        raise refused(DATASET, "has a numTraining that is no number of cases")
    for key in TEXTS:
        if not isinstance(dataset_json.get(key, ""), str):
            raise refused(DATASET, f"has a {key} that is no text")
    return len(channels)
