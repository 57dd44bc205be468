"""A party's preprocessed data, and whether models of the same network may be used and trained on them."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from nnunetv2.paths import nnUNet_preprocessed

from nnunetv2_stitch.bridging.model_properties import normalisations, output_names
from nnunetv2_stitch.bridging.report import TOLERANCE
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.folders import files_in, stock_id
from nnunetv2_stitch.parties.datasets import find_dataset
from nnunetv2_stitch.parties.model_folder import ModelFolder
from nnunetv2_stitch.parties.preprocessed import validation_names
from nnunetv2_stitch.training.member import Member
from nnunetv2_stitch.training.records import without_records

NO_PLANS = ("dataset.json", "dataset_fingerprint.json", "splits_final.json")


@dataclass(frozen=True)
class Site:
    """A party's preprocessed dataset, and plans and dataset.json for a model of it: the party's, with the members'
    network, patch size and, where they differ, labels. `same_labels`: whether the party's labels are what the members
    answer with."""

    folder: str
    dataset_name: str
    configuration: str
    fold: int | str
    plans: dict = field(repr=False)
    dataset_json: dict = field(repr=False)
    same_labels: bool = True

    @property
    def data_identifier(self) -> str:
        return self.plans["configurations"][self.configuration]["data_identifier"]

    def validation_names(self) -> list[str]:
        """The cases that the fold leaves out of training, sorted."""
        return validation_names(self.folder, self.data_identifier, self.fold)


def find_site(dataset: int | str, configuration: str, fold: int | str, members: Sequence[Member], name: str,
              plans_name: str | None = None, whose: str = "the centre's") -> Site:
    """Find a party's data and check that the members can be used on them; writes nothing.

    Args:
        name: what the plans will be called.
        plans_name: plans that the data were preprocessed with; None for the members'.
        whose: data they are, for messages.

    Raises:
        StitchError: no such dataset, plans or configuration, or another preprocessing than the members'.
    """
    folder = find_dataset(nnUNet_preprocessed, "nnUNet_preprocessed", dataset)
    model = members[0].model
    plans_name = plans_name or model.plans_name
    path = os.path.join(folder, f"{plans_name}.json")
    if not os.path.isfile(path):
        there = ", ".join(n[:-5] for n in files_in(folder, ".json") if n not in NO_PLANS)
        raise StitchError(f"{path} does not exist: {whose} data must be preprocessed with the models' plans; see "
                          f"nnUNetv2_move_plans_between_datasets and nnUNetv2_preprocess, or name the plans with -p; "
                          f"there are: {there or 'none'}")
    plans, dataset_json = read_json(path), read_json(os.path.join(folder, "dataset.json"))
    if configuration not in plans.get("configurations", {}):
        raise StitchError(f"{path} has no configuration {configuration}; it has "
                          f"{', '.join(plans.get('configurations', {})) or 'none'}")
    dataset_name = os.path.basename(folder)
    own = ModelFolder(folder, dataset_name, "nnUNetTrainer", plans_name, configuration, plans, dataset_json, ())
    data = os.path.join(folder, own.configuration_manager.data_identifier)
    if not os.path.isdir(data):
        raise StitchError(f"{data} does not exist; run nnUNetv2_preprocess -d {stock_id(dataset_name)} "
                          f"-plans_name {plans_name} -c {configuration}")
    for member in members:
        _require_same_terms(own, member, path, whose)
    same = output_names(own) == output_names(model) and \
        own.label_manager.has_regions == model.label_manager.has_regions
    return Site(folder, dataset_name, configuration, fold, _merged_plans(own, model, name),
                dataset_json if same else _with_labels_of(model, dataset_json), same)


def require_configuration(configuration: str, models: Sequence[ModelFolder]) -> None:
    """Raises StitchError if a model is of another configuration."""
    for model in models:
        if model.configuration != configuration:
            raise StitchError(f"{model.path} is of configuration {model.configuration}, not {configuration}; give "
                              f"models of one configuration and name it with -c")


def _require_same_terms(own: ModelFolder, member: Member, path: str, whose: str) -> None:
    """One network takes one kind of input: what the party's data were preprocessed to must be what it was trained
    on."""
    model, ours = member.model, own.configuration_manager
    theirs = model.configuration_manager
    spacings = [list(map(float, c.spacing)) for c in (ours, theirs)]
    close = len(spacings[0]) == len(spacings[1]) and all(abs(a - b) <= TOLERANCE * a for a, b in zip(*spacings))
    values = {"spacing": (spacings[0], spacings[0] if close else spacings[1]),
              "transpose_forward": [list(p.plans_manager.transpose_forward) for p in (own, model)],
              "normalisation": ["; ".join(map(str, normalisations(p))) for p in (own, model)],
              "channels": [p.channel_names for p in (own, model)]}
    for key, (a, b) in values.items():
        if a != b:
            raise StitchError(f"{path}: {key} is {a}, that of {member.label} {b}, so one network cannot serve both; "
                              f"preprocess {whose} data with the models' plans "
                              f"(nnUNetv2_move_plans_between_datasets, nnUNetv2_preprocess)")


def _merged_plans(own: ModelFolder, model: ModelFolder, name: str) -> dict:
    """The party's plans with this one configuration, and the members' network and patch size in it."""
    plans = {**copy.deepcopy(own.plans), "dataset_name": own.dataset_name, "plans_name": name}
    configuration = copy.deepcopy(own.configuration_manager.configuration)
    spec = model.network_spec
    configuration["architecture"] = copy.deepcopy(spec)
    patch = list(model.configuration_manager.patch_size)
    if not all(isinstance(p, int) and 0 < p <= 2**14 for p in patch):
        raise StitchError(f"{model.path}/plans.json: patch_size {str(patch)[:60]} is not one of nnU-Net's; copy the "
                          f"model again from its source")
    configuration["patch_size"] = patch
    plans["configurations"] = {own.configuration: configuration}
    return without_records(plans)


def _with_labels_of(model: ModelFolder, dataset_json: dict) -> dict:
    kept = {k: v for k, v in dataset_json.items() if k not in ("labels", "regions_class_order")}
    return {**kept, **{k: copy.deepcopy(model.dataset_json[k]) for k in ("labels", "regions_class_order")
                       if k in model.dataset_json}}
