"""What guided merging in rounds is to do: the entries of the Flower app's configuration, checked before any round."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.federation.centre_search import SearchSettings
from nnunetv2_stitch.federation.data import FederatedParty, model_folder, resolved
from nnunetv2_stitch.federation.local import Schedule
from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.merging.guided import require_searchable
from nnunetv2_stitch.parties.checkpoint import sha256
from nnunetv2_stitch.training.site import Site

TRAINER = "nnUNetTrainerGuidedRounds"


@dataclass(frozen=True)
class RoundsSettings:
    """The entries of `[tool.flwr.app.config]`; `app.PYPROJECT` says what each means. TOML knows no None: `iterations`
    and `quorum` 0, `max_age` -1 and `start` "" stand for it."""

    configuration: str
    fold: str
    rounds: int
    epochs_per_round: int
    iterations: int
    seed: int
    centre_dataset: str
    centre_plans: str
    centre_device: str
    start: str
    parties: int
    deadline: float
    quorum: int
    max_age: int
    forget_after: float
    granularity: str
    search: str
    steps: int
    rate: float
    surrogate: str

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> RoundsSettings:
        """Of a Flower app's run configuration.

        Raises:
            StitchError: an entry is missing, or one cannot be meant.
        """
        values = {}
        for field in fields(cls):
            kind = {"str": str, "int": int, "float": float}[field.type]
            if field.name not in config:
                raise StitchError(f"the app's configuration lacks {field.name}; make its folder anew with "
                                  f"python -m nnunetv2_stitch.federation.app FOLDER")
            try:
                values[field.name] = kind(config[field.name])
            except ValueError as error:
                raise StitchError(f"{field.name} is {config[field.name]!r} in the app's configuration; it must be "
                                  f"{'a whole number' if kind is int else 'a number'}") from error
        settings = cls(**values)
        settings.require_sense()
        return settings

    def require_sense(self) -> None:
        """What the centre and the parties need; `check_search` is the centre's."""
        for name, least in (("rounds", 1), ("epochs_per_round", 1), ("iterations", 0), ("parties", 1), ("quorum", 0),
                            ("max_age", -1)):
            if getattr(self, name) < least:
                raise StitchError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if self.fold != "all" and not self.fold.isdecimal():
            raise StitchError(f"fold is {self.fold!r}; give a number, or all")

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.configuration, self.fold, self.rounds, self.epochs_per_round, self.iterations or None,
                        self.seed)

    @property
    def search_settings(self) -> SearchSettings:
        return SearchSettings(self.granularity, self.search, self.steps, self.rate, self.surrogate, self.seed)

    @property
    def waiting(self) -> dict[str, Any]:
        """What may be changed when an interrupted training goes on: arguments of `GuidedMerging`, and the deadline."""
        return {"deadline": self.deadline, "quorum": self.quorum or None,
                "max_age": None if self.max_age == -1 else self.max_age, "forget_after": self.forget_after}

    @property
    def centre(self) -> FederatedParty:
        return FederatedParty("the centre", self.centre_dataset, self.centre_plans)

    def kept(self) -> dict[str, Any]:
        """What must stay the same when an interrupted training goes on. JSON values."""
        values = {k: v for k, v in asdict(self).items() if k not in (*self.waiting, "centre_device", "parties")}
        return {**values, "start": sha256(self.start) if self.start else None}


def rounds_folder(party: FederatedParty, configuration: str) -> str:
    """At the centre, where stock nnU-Net finds the result; at a party, where its states lie below fold_k/federated:
    nnUNet_results/DATASET/nnUNetTrainerGuidedRounds__PLANS__CONFIG.

    Raises:
        StitchError: nnUNet_results is not set.
    """
    return model_folder(party, configuration, TRAINER)


def own_site(folder: str, configuration: str, fold: int | str, plans_name: str) -> Site:
    """A centre whose own plans describe the common network.

    Args:
        folder: of the dataset in nnUNet_preprocessed.

    Raises:
        StitchError: plans or dataset.json are missing, or the plans do not have the configuration.
    """
    path = os.path.join(folder, f"{plans_name}.json")
    plans, dataset_json = read_json(path), read_json(os.path.join(folder, "dataset.json"))
    dataset = os.path.basename(os.path.abspath(folder))
    plans = {**plans, "dataset_name": dataset, "plans_name": plans_name,
             "configurations": {configuration: resolved(plans, configuration, path)}}
    return Site(folder, dataset, configuration, fold, plans, dataset_json)


def check_search(settings: SearchSettings, deadline: float) -> None:
    """Raises StitchError if a value cannot be meant."""
    require_searchable(settings)
    if not 0 < deadline < math.inf:
        raise StitchError(f"deadline is {deadline}; give seconds above 0")
