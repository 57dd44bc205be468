"""The parties' preprocessed data: where they lie, and whether one network can be trained on all of them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.folders import stock_id

# What preprocessing depends on. Network, patch size and batch size are the host's for everybody.
SAME_CONFIGURATION = ("preprocessor_name", "spacing", "normalization_schemes", "use_mask_for_norm")
SAME_PLANS = ("transpose_forward",)


@dataclass(frozen=True)
class FederatedParty:
    """A party whose `dataset` (full name) lies in nnUNet_preprocessed, preprocessed under `plans_name`."""

    name: str
    dataset: str
    plans_name: str


def check_request(parties: Sequence[FederatedParty], configuration: str, rounds: int, epochs_per_round: int,
                  iterations: int | None) -> None:
    """What federated averaging needs to be possible.

    Args:
        rounds, epochs_per_round: at least 1.
        iterations: per epoch, None for the trainer's own.

    Raises:
        StitchError: numbers below 1, names that are no names, files that are missing, or data that were preprocessed
            in ways that cannot be averaged over.
    """
    for name, value in (("rounds", rounds), ("epochs_per_round", epochs_per_round), ("iterations", iterations)):
        if value is not None and value < 1:
            raise StitchError(f"{name} is {value}; it must be at least 1")
    if len(parties) < 2:
        raise StitchError("give at least two parties: one party alone is an ordinary nnU-Net training")
    names = [p.name for p in parties]
    if len({n.lower() for n in names}) < len(names) or not all(re.fullmatch(r"[A-Za-z0-9_-]+", n) for n in names):
        raise StitchError(f"party names {', '.join(names)}: they must differ and be made of letters, digits, _ and -")
    _check_data(parties, configuration)


def model_folder(host: FederatedParty, configuration: str, trainer: str) -> str:
    """Where stock nnU-Net finds a model of the host's: nnUNet_results/HOST/TRAINER__PLANS__CONFIG.

    Raises:
        StitchError: nnUNet_results is not set.
    """
    return os.path.join(_variable("nnUNet_results"), host.dataset, f"{trainer}__{host.plans_name}__{configuration}")


def dataset_folder(party: FederatedParty) -> str:
    """The party's preprocessed dataset.

    Raises:
        StitchError: nnUNet_preprocessed is not set.
    """
    return os.path.join(_variable("nnUNet_preprocessed"), party.dataset)


def party_files(party: FederatedParty) -> tuple[dict, dict]:
    """The party's plans and dataset.json."""
    return read_json(plans_path(party)), read_json(os.path.join(dataset_folder(party), "dataset.json"))


def plans_path(party: FederatedParty) -> str:
    return os.path.join(dataset_folder(party), f"{party.plans_name}.json")


def plans_to_train(party: FederatedParty, configuration: str, host_plans: dict | None = None) -> dict:
    """The host's plans, with the names under which this party's data lie. `host_plans`: where they are not those that
    the party's data were preprocessed with."""
    own_plans, _ = party_files(party)
    plans = deepcopy(own_plans if host_plans is None else host_plans)
    own = resolved(own_plans, configuration, plans_path(party))
    plans["configurations"][configuration]["data_identifier"] = own["data_identifier"]
    return {**plans, "dataset_name": party.dataset, "plans_name": party.plans_name}


def resolved(plans: dict, configuration: str, path: str) -> dict[str, Any]:
    """A configuration with what it inherits from others, plans of older nnU-Net versions translated.

    Raises:
        StitchError: the plans do not have it, or they inherit in a circle.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
    if configuration not in plans.get("configurations", {}):
        raise StitchError(f"{path} has no configuration {configuration}; it has "
                          f"{', '.join(plans.get('configurations', {})) or 'none'}")
    try:
        return PlansManager(plans).get_configuration(configuration).configuration
    except Exception as error:  # nnU-Net checks nothing, so any type of error may come from here
        raise StitchError(f"{path}: configuration {configuration} is not one of nnU-Net v2 ({error}); plan the dataset "
                          f"again") from error


def _variable(name: str) -> str:
    if not os.environ.get(name):
        raise StitchError(f"environment variable {name} is not set; set nnU-Net's three folders first")
    return os.path.abspath(os.environ[name])


def _check_data(parties: Sequence[FederatedParty], configuration: str) -> None:
    reference: dict[str, Any] = {}
    for party in parties:
        plans, dataset = party_files(party)
        path = plans_path(party)
        own = resolved(plans, configuration, path)
        if own.get("previous_stage"):
            raise StitchError(f"{path}: {configuration} is the second stage of a cascade, which cannot be trained "
                              f"here; use 2d, 3d_lowres or 3d_fullres")
        folder = dataset_folder(party)
        identifier = str(own.get("data_identifier"))
        if not os.path.isdir(os.path.join(folder, identifier)):
            raise StitchError(f"{os.path.join(folder, identifier)} does not exist; run nnUNetv2_preprocess -d "
                              f"{stock_id(party.dataset)} -plans_name {party.plans_name} -c {configuration}")
        if not os.path.isfile(os.path.join(folder, "dataset_fingerprint.json")):
            raise StitchError(f"{folder}/dataset_fingerprint.json does not exist, without which nnU-Net does not "
                              f"train; run nnUNetv2_extract_fingerprint -d {stock_id(party.dataset)}")
        properties = _properties(own, plans, dataset)
        for key, value in properties.items():
            if reference.setdefault(key, value) != value:
                host = parties[0]
                raise StitchError(f"{path}: {key} differs from {host.dataset}, so one network cannot serve both; move "
                                  f"the host's plans with nnUNetv2_move_plans_between_datasets -s {host.dataset} -t "
                                  f"{party.dataset} -sp {host.plans_name} -tp NAME and preprocess with them")


def _properties(configuration: dict, plans: dict, dataset: dict) -> dict[str, Any]:
    """What all parties must have in common."""
    values = {key: configuration.get(key) for key in SAME_CONFIGURATION}
    values |= {key: plans.get(key) for key in SAME_PLANS}
    if "CTNormalization" in (configuration.get("normalization_schemes") or []):  # it uses the plans' intensities
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
        values["foreground intensities"] = PlansManager(plans).foreground_intensity_properties_per_channel
    values["labels in dataset.json"] = (dataset.get("labels"), dataset.get("regions_class_order"))
    values["number of channels"] = len(dataset.get("modality", dataset.get("channel_names")) or [])
    return values
