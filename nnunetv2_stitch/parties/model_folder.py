"""One party's trained model as nnU-Net keeps it: a folder `trainer__plans__configuration` with plans and folds."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.utilities.label_handling.label_handling import LabelManager, determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.folders import folds_in

FINAL = "checkpoint_final.pth"
BASELINE_KEY = "made_for_stitch_comparison"  # in the plans of models that only a comparison needs
DISTILLED_KEY = "distilled_from_stitched"  # in the plans of students of a stitched ensemble
ADAPTED_KEY = "adapted_from_partner"  # in the plans of a partner that was trained on with the host's images
MERGED_KEY = "merged_from_parties"  # in the plans of models that merge_party wrote
MADE_KEYS = (BASELINE_KEY, DISTILLED_KEY, ADAPTED_KEY, MERGED_KEY)  # no model that is made from another inherits them


@dataclass(frozen=True)
class ModelFolder:
    """A readable model folder; `folds` are those that hold `checkpoint_name`. `plans` and `dataset_json` are the files'
    contents, not to be changed."""

    path: str
    dataset_name: str
    trainer: str
    plans_name: str
    configuration: str
    plans: dict = field(repr=False)
    dataset_json: dict = field(repr=False)
    folds: tuple[int | str, ...]
    checkpoint_name: str = FINAL

    @property
    def identifier(self) -> str:
        return f"{self.trainer}__{self.plans_name}__{self.configuration}"

    @property
    def preprocessed_folder(self) -> str:
        """Of the dataset, in nnUNet_preprocessed."""
        return os.path.join(str(nnUNet_preprocessed), self.dataset_name)

    @cached_property
    def plans_manager(self) -> PlansManager:
        return PlansManager(self.plans)

    @cached_property
    def configuration_manager(self) -> ConfigurationManager:
        """With what the configuration inherits from others, and plans of older nnU-Net versions translated."""
        return self.plans_manager.get_configuration(self.configuration)

    @cached_property
    def label_manager(self) -> LabelManager:
        return self.plans_manager.get_label_manager(self.dataset_json)

    @property
    def num_input_channels(self) -> int:
        return determine_num_input_channels(self.plans_manager, self.configuration_manager, self.dataset_json)

    @property
    def num_outputs(self) -> int:
        return self.label_manager.num_segmentation_heads

    @property
    def network_spec(self) -> dict[str, Any]:
        """The network as plain JSON: `network_class_name`, `arch_kwargs`, `_kw_requires_import`."""
        configuration = self.configuration_manager
        return {"network_class_name": configuration.network_arch_class_name,
                "arch_kwargs": dict(configuration.network_arch_init_kwargs),
                "_kw_requires_import": list(configuration.network_arch_init_kwargs_req_import)}

    @property
    def is_cascaded(self) -> bool:
        """Whether the network reads another network's segmentation beside the image."""
        return self.configuration_manager.previous_stage_name is not None

    @property
    def is_stitched(self) -> bool:
        return str(self.configuration_manager.network_arch_class_name).startswith("nnunetv2_stitch.")

    @property
    def is_baseline(self) -> bool:
        """Whether the model was only trained for a comparison, is distilled from a stitched one, or is an adapted
        partner; such models are parents only where they are named."""
        return any(self.plans.get(key) for key in MADE_KEYS if key != MERGED_KEY)

    @property
    def is_merged(self) -> bool:
        """Whether it was merged from models of several parties; beside a trained one it is a parent only where it is
        named."""
        return bool(self.plans.get(MERGED_KEY))

    @property
    def is_adapted(self) -> bool:
        """Whether it is a partner that was trained on with a host's images."""
        return bool(self.plans.get(ADAPTED_KEY))

    @property
    def channel_names(self) -> list[str]:
        """In the order of the network's input channels."""
        return channel_names(self.dataset_json)

    @cached_property
    def intensities(self) -> dict[str, dict]:
        """nnU-Net's foreground intensities by channel, which CTNormalization reads; empty where the plans have none."""
        try:
            return self.plans_manager.foreground_intensity_properties_per_channel or {}
        except KeyError:
            return {}

    @cached_property
    def received(self) -> dict:
        """What the sender says of the model (party.json), where it came as an export; else empty. Not checked."""
        path = os.path.join(self.path, "party.json")
        found = read_json(path) if os.path.isfile(path) else {}
        return found if isinstance(found, dict) else {}

    def checkpoint_path(self, fold: int | str, checkpoint_name: str | None = None) -> str:
        """Raises StitchError, naming the folds that are trained, if this one is not."""
        checkpoint_name = checkpoint_name or self.checkpoint_name
        path = os.path.join(self.path, f"fold_{fold}", checkpoint_name)
        if not os.path.isfile(path):
            there = folds_in(self.path, checkpoint_name)
            raise StitchError(f"{self.path} has no {checkpoint_name} of fold {fold}; folds that have it: "
                              f"{', '.join(map(str, there)) or 'none'}")
        return path


def channel_names(dataset_json: Mapping[str, Any]) -> list[str]:
    """Names of the input channels as nnU-Net takes them: in the file's order, whatever the keys, and under the first
    versions' name before the present one. Empty where the file names none."""
    names = dataset_json.get("modality", dataset_json.get("channel_names")) or {}
    return [str(name) for name in names.values()]


def read_model_folder(path: str, checkpoint_name: str = FINAL) -> ModelFolder:
    """Read plans.json and dataset.json; `folds` are those that hold `checkpoint_name`, perhaps none.

    The folder's name says trainer, plans and configuration, and the folder around it the dataset, as everywhere in
    nnU-Net; only where that is no dataset folder the plans are asked.

    Raises:
        StitchError: no such folder, a name of another kind, or files that are missing or not nnU-Net's.
    """
    path = os.path.abspath(path)
    if not os.path.isdir(path):
        raise StitchError(f"model folder {path} does not exist")
    names = os.path.basename(path).split("__")
    if len(names) != 3 or not all(names):
        raise StitchError(f"{path} is not a model folder: nnU-Net names them TRAINER__PLANS__CONFIGURATION")
    plans_file, dataset_file = (os.path.join(path, name) for name in ("plans.json", "dataset.json"))
    plans, dataset_json = read_json(plans_file), read_json(dataset_file)
    around = os.path.basename(os.path.dirname(path))
    dataset_name = around if around.startswith("Dataset") else _get(plans, "dataset_name", plans_file)
    if os.path.basename(str(dataset_name)) != dataset_name:
        raise StitchError(f"{plans_file}: dataset_name {dataset_name!r} is not a name; copy it again from its source")
    model = ModelFolder(path, dataset_name, *names, plans, dataset_json, tuple(folds_in(path, checkpoint_name)),
                        checkpoint_name)
    _require_readable(model, plans_file, dataset_file)
    return model


def folds_to_use(model_folder: str, folds: Sequence[int | str] | None, checkpoint_name: str) -> list[int | str]:
    """The folds to use: those asked for, or all that are there.

    Raises:
        StitchError: a fold without this checkpoint.
    """
    there = folds_in(model_folder, checkpoint_name)
    if folds is None:
        folds = [f for f in there if f != "all"] or there
    missing = [f for f in folds if f not in there]
    if missing or not folds:
        raise StitchError(f"{model_folder} has no {checkpoint_name} of fold {missing[0] if missing else '0'}; "
                          f"it has folds {', '.join(map(str, there)) or 'none'}; choose with -f and -chk")
    return list(folds)


def _require_readable(model: ModelFolder, plans_file: str, dataset_file: str) -> None:
    """Fail here, naming the file, and not somewhere later, on files that nnU-Net itself would stumble over."""
    configurations = _get(model.plans, "configurations", plans_file)
    if not isinstance(configurations, dict) or model.configuration not in configurations:
        raise StitchError(f"{plans_file} does not describe configuration {model.configuration}; copy the model folder "
                          f"again from its source, without renaming it")
    _get(model.dataset_json, "labels", dataset_file)
    try:
        configuration = model.configuration_manager
        for value in (configuration.patch_size, configuration.spacing, configuration.normalization_schemes,
                      configuration.use_mask_for_norm, configuration.data_identifier, configuration.preprocessor_name,
                      model.plans_manager.transpose_forward, model.network_spec):
            if value is None:
                raise ValueError("a value is null")
    except Exception as error:  # nnU-Net checks nothing, so any type of error may come from here
        raise StitchError(f"{plans_file} is not a plans file of nnU-Net v2 ({_said(error)}); copy it again from its "
                          f"source") from error
    _require_spacing(configuration.spacing, plans_file)
    try:
        known = model.plans_manager.label_manager_class is not None
    except Exception:  # see above
        known = False
    if not known:
        raise StitchError(f"{plans_file} names a label_manager that nnU-Net does not have, "
                          f"{str(model.plans.get('label_manager'))[:100]!r}; copy it again from its source")
    try:
        if not model.channel_names or not model.num_outputs:
            raise ValueError("no channels or no labels")
    except Exception as error:
        raise StitchError(f"{dataset_file} is not a dataset.json of nnU-Net v2 ({_said(error)}); copy it again from "
                          f"its source") from error


def _require_spacing(spacing: Any, path: str) -> None:
    """nnU-Net divides by spacings, and by one that is no length it fails hours later or not at all."""
    if not isinstance(spacing, (list, tuple)) or not spacing or not all(
            isinstance(s, (int, float)) and not isinstance(s, bool) and 0 < s < math.inf for s in spacing):
        raise StitchError(f"{path}: spacing must be positive numbers, it is {str(spacing)[:100]}; copy it again from "
                          f"its source")


def _get(contents: Any, key: str, path: str) -> Any:
    if not isinstance(contents, dict) or key not in contents:
        raise StitchError(f"{path} has no {key}; is it nnU-Net's?")
    return contents[key]


def _said(error: Exception) -> str:
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:100]}"
