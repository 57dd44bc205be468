"""What a federated training is to do, checked before any process is started."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import read_json, write_json

TRAINER = "nnUNetTrainerFedAvg"
JOB_VARIABLE, PARTY_VARIABLE, PARENT_VARIABLE = (f"NNUNETV2_STITCH_FEDERATED_{n}" for n in ("JOB", "PARTY", "PARENT"))
# What preprocessing depends on. Network, patch size and batch size are the host's for everybody.
SAME_CONFIGURATION = ("preprocessor_name", "spacing", "normalization_schemes", "use_mask_for_norm")
SAME_PLANS = ("transpose_forward",)


@dataclass(frozen=True)
class FederatedParty:
    """A party whose `dataset` (full name) lies in nnUNet_preprocessed, preprocessed under `plans_name`."""

    name: str
    dataset: str
    plans_name: str


@dataclass(frozen=True)
class Job:
    """A checked federated training, readable by all its processes.

    `folder` keeps what is needed to go on, `scratch` is private to this run. `threads` is for each trainer.
    `key` authenticates the run's own connections, `launcher` is where the server reports to. `trainers` are the
    addresses of the trainer processes; `start_round` rounds are done. `server` is the module with the ServerApp;
    `options` are what it needs to know beyond this (JSON values), and `waiting` the same for what may be changed when
    an interrupted training goes on. `may_miss`: parties may miss rounds, and may end without ending the training.
    """

    parties: tuple[FederatedParty, ...]
    configuration: str
    fold: int | str
    rounds: int
    epochs_per_round: int
    iterations: int | None
    seed: int
    device: str
    threads: int
    preprocessed: str
    folder: str
    scratch: str
    key: str = field(repr=False)
    start_round: int = 0
    launcher: tuple[str, int] | None = None
    trainers: tuple[tuple[str, int], ...] = ()
    server: str = "nnunetv2_stitch.baselines.federated.server_app"
    options: dict[str, Any] = field(default_factory=dict)
    waiting: dict[str, Any] = field(default_factory=dict)
    may_miss: bool = False

    @property
    def path(self) -> str:
        return os.path.join(self.scratch, "job.json")

    @property
    def settings(self) -> dict[str, Any]:
        """What must stay the same when an interrupted training goes on. JSON values."""
        return {"parties": [asdict(p) for p in self.parties], "configuration": self.configuration,
                "fold": str(self.fold), "rounds": self.rounds, "epochs_per_round": self.epochs_per_round,
                "iterations": self.iterations, "seed": self.seed, **self.options}

    @property
    def logs(self) -> str:
        return os.path.join(self.folder, "logs")

    @property
    def server_log(self) -> str:
        """Flower throws away what a ServerApp prints, so it writes its errors here."""
        return os.path.join(self.logs, "flower_server_app.log")

    def party_folder(self, party: FederatedParty) -> str:
        return os.path.join(self.folder, "parties", party.name)

    @property
    def host_folder(self) -> str:
        """The host's preprocessed dataset."""
        return os.path.join(self.preprocessed, self.parties[0].dataset)

    def party_files(self, party: FederatedParty) -> tuple[dict, dict]:
        """The party's plans and dataset.json."""
        return _party_files(self.preprocessed, party)

    def ready_file(self, index: int) -> str:
        """Where the trainer of a party says, once it is built, how it can be asked."""
        return os.path.join(self.scratch, f"trainer_{index}.json")

    def write(self) -> None:
        write_json(self.path, asdict(self))

    @classmethod
    def read(cls, path: str) -> Job:
        value = read_json(path)
        value["parties"] = tuple(FederatedParty(**p) for p in value["parties"])
        value["trainers"] = tuple((host, port) for host, port in value["trainers"])
        return cls(**value)

    @classmethod
    def of_this_process(cls) -> Job:
        """In a process of Flower: the job that the environment names."""
        return cls.read(os.environ[JOB_VARIABLE])


def federated_folder(host: FederatedParty, configuration: str, trainer: str = TRAINER) -> str:
    """The model folder where stock nnU-Net finds the result: nnUNet_results/HOST/nnUNetTrainerFedAvg__PLANS__CONFIG,
    or the same with another name than that of federated averaging.

    Raises:
        StitchError: nnUNet_results is not set.
    """
    return os.path.join(_variable("nnUNet_results"), host.dataset, f"{trainer}__{host.plans_name}__{configuration}")


def check_request(parties: Sequence[FederatedParty], configuration: str, fold: int | str, rounds: int,
                  epochs_per_round: int, iterations: int | None) -> str:
    """Return nnUNet_preprocessed.

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
    preprocessed = _variable("nnUNet_preprocessed")
    _check_data(preprocessed, parties, configuration)
    return preprocessed


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


def _plans_path(preprocessed: str, party: FederatedParty) -> str:
    return os.path.join(preprocessed, party.dataset, f"{party.plans_name}.json")


def _party_files(preprocessed: str, party: FederatedParty) -> tuple[dict, dict]:
    return (read_json(_plans_path(preprocessed, party)),
            read_json(os.path.join(preprocessed, party.dataset, "dataset.json")))


def _check_data(preprocessed: str, parties: Sequence[FederatedParty], configuration: str) -> None:
    reference: dict[str, Any] = {}
    for party in parties:
        plans, dataset = _party_files(preprocessed, party)
        path = _plans_path(preprocessed, party)
        own = resolved(plans, configuration, path)
        if own.get("previous_stage"):
            raise StitchError(f"{path}: {configuration} is the second stage of a cascade, which cannot be trained "
                              f"here; use 2d, 3d_lowres or 3d_fullres")
        folder = os.path.join(preprocessed, party.dataset)
        identifier = str(own.get("data_identifier"))
        if not os.path.isdir(os.path.join(folder, identifier)):
            raise StitchError(f"{os.path.join(folder, identifier)} does not exist; run nnUNetv2_preprocess -d "
                              f"{party.dataset} -plans_name {party.plans_name} -c {configuration}")
        if not os.path.isfile(os.path.join(folder, "dataset_fingerprint.json")):
            raise StitchError(f"{folder}/dataset_fingerprint.json does not exist, without which nnU-Net does not "
                              f"train; run nnUNetv2_extract_fingerprint -d {party.dataset}")
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
