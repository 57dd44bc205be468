"""Whether plans.json and dataset.json of another party are of the kind that nnU-Net writes, value by value."""

from __future__ import annotations

import math

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.exchange.clean import INTENSITIES, OLD_INTENSITIES, RESAMPLING
from nnunetv2_stitch.exchange.plain import ENDING, IDENTIFIER, is_name, is_number, is_whole, printable, refused
from nnunetv2_stitch.exchange.stock_names import require_stock_names
from nnunetv2_stitch.parties.allowed_classes import require_allowed_classes

MAX_CHANNELS, MAX_CHANNEL_KEY, MAX_LABELS, MAX_LABEL = 64, 64, 1024, 65535
MAX_PATCH_SIDE, MAX_PATCH_VOXELS = 16384, 2**27
MAX_ARGUMENT = 1024  # of a resampling function
PLANS, DATASET = "plans.json", "dataset.json"


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
    for key in ("name", "reference", "licence", "license"):
        if not isinstance(dataset_json.get(key, ""), str):
            raise refused(DATASET, f"has a {key} that is no text")
    return len(channels)
