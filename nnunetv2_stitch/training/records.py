"""What a training was asked to be. It travels in its plans, so that stock nnUNetv2_train does the same."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from nnunetv2.paths import nnUNet_results

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import found_again, recorded

#: keys of a configuration
DISTILLATION, FROM_MERGED, ADAPTATION = RECORDS = ("distillation", "from_merged", "adaptation")
SEED = 12345
BUDGET_FLAGS = {"seed": "-seed", "num_epochs": "-epochs", "num_iterations_per_epoch": "-iterations"}
START_FLAGS = {"learning_rate": "-lr", **BUDGET_FLAGS}
#: of a request, where a record's are called otherwise
FIELDS = {"learning_rate": "rate", "num_epochs": "epochs", "num_iterations_per_epoch": "iterations"}


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """How one network is trained. `num_epochs`, `num_iterations_per_epoch`: None for nnU-Net's own. `folds`: by fold,
    what it begins with or is taught by. `asked`: the terms of the request (`TrainingRequest.asked`), with which `--c`
    goes on; they stay on this machine.

    A class of records says all that tells its kind of training from others: under which `key` of a configuration the
    record is, which `command` writes it, which nnU-Net `trainer` reads it, and which `file` tells of it beside the
    weights; for messages what is made (`kind`), what the record names (`source`), by `whose` plans the data are
    preprocessed, and what is wrong where a fold was begun with other files (`changed`). `flags`: the fields that may
    not change between a training and its continuation, and among folds, with the flag that sets each.
    """

    seed: int = SEED
    num_epochs: int | None = None
    num_iterations_per_epoch: int | None = None
    folds: Mapping[str, Mapping] = field(default_factory=dict)
    asked: Mapping[str, Any] = field(default_factory=dict)

    key: ClassVar[str]
    command: ClassVar[str]
    trainer: ClassVar[str]
    file: ClassVar[str]
    kind: ClassVar[str]
    source: ClassVar[str]
    whose: ClassVar[str]
    changed: ClassVar[str]
    flags: ClassVar[Mapping[str, str]]

    def to_json(self) -> dict:
        return asdict(self)

    def terms(self) -> dict:
        """Of all folds, as they may travel beside the weights."""
        return {k: v for k, v in self.to_json().items() if k not in ("folds", "asked")}

    def before(self) -> dict[str, Any]:
        """The terms of the request, by its fields; of an earlier version's record those that it tells."""
        return {**{FIELDS.get(name, name): getattr(self, name) for name in self.flags}, **self.asked}

    @classmethod
    def of(cls, configuration: Mapping, plans_name: str) -> TrainingRecord:
        """From a configuration of plans.

        Raises:
            StitchError: these plans hold no such record.
        """
        if cls.key not in configuration:
            raise StitchError(f"plans {plans_name} name no {cls.source}; run {cls.command} first")
        return cls(**configuration[cls.key])

    def of_fold(self, fold: int | str) -> Mapping:
        """Raises StitchError if the plans name nothing for this fold."""
        if str(fold) not in self.folds:
            raise StitchError(f"the plans name no {self.source} for fold {fold}, only for folds "
                              f"{', '.join(self.folds)}; run {self.command} with -f {fold}")
        return self.folds[str(fold)]


@dataclass(frozen=True, kw_only=True)
class StartRecord(TrainingRecord):
    """A training that begins with a finished model. `model`: its folder, relative to nnUNet_results where it lies
    inside. `folds`: by the new fold, the model's `fold`, the `checkpoint`'s path below `model`, its `sha256`, and the
    axes along which it may be mirrored (`mirroring`)."""

    model: str
    learning_rate: float

    def checkpoint(self, fold: int | str) -> str:
        """Path of the checkpoint that the fold begins with."""
        return os.path.join(below_results(self.model), *self.of_fold(fold)["checkpoint"].split("/"))


def without_records(plans: Mapping) -> dict:
    """Plans as they go out with a model: of a plain network, without folders of this machine."""
    plans = copy.deepcopy(dict(plans))
    for configuration in plans["configurations"].values():
        for key in RECORDS:
            configuration.pop(key, None)
    return plans


def relative_to_results(path: str) -> str:
    """How a record names a model folder: relative to nnUNet_results where it lies inside, else absolute."""
    return recorded(path, str(nnUNet_results))


def below_results(record: str) -> str:
    """The folder that such a record names."""
    return found_again(record, str(nnUNet_results))
