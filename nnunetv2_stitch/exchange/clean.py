"""plans.json and dataset.json without anything that a partner does not need."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from nnunetv2_stitch.exchange.plain import MAX_TEXT, is_whole

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


def of_own_model(plans: dict, dataset_json: dict, configuration: str,
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
