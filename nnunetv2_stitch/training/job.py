"""A checked training of ours: what is trained, where it reads and writes, and what came out."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace

from nnunetv2.paths import nnUNet_preprocessed, nnUNet_results
from nnunetv2.utilities.file_path_utilities import get_output_folder

from nnunetv2_stitch.command_lines import Command
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import is_writable, read_json
from nnunetv2_stitch.fitting.live_bytes import Need
from nnunetv2_stitch.folders import require_plans_name, stock_id
from nnunetv2_stitch.parties.model_folder import FINAL, ModelFolder
from nnunetv2_stitch.parties.preprocessed import require_trainable
from nnunetv2_stitch.stitching.plans import count_parameters
from nnunetv2_stitch.training.continuing import with_earlier_folds
from nnunetv2_stitch.training.memory import network_of, training_need
from nnunetv2_stitch.training.records import TrainingRecord


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """A checked request. `plans` are to be written, with `record` in them. `remarks`: what the user must know, a line
    each. `waits_for_data`: the job itself preprocesses the images, and has not done so yet.
    """

    dataset: str
    configuration: str
    plans_name: str
    folds: list[int | str]
    record: TrainingRecord
    plans: dict
    remarks: list[str] = field(default_factory=list)

    waits_for_data = False

    @property
    def trainer(self) -> str:
        return self.record.trainer

    @property
    def preprocessed_folder(self) -> str:
        return os.path.join(str(nnUNet_preprocessed), self.dataset)

    @property
    def data_identifier(self) -> str:
        return self.plans["configurations"][self.configuration]["data_identifier"]

    @property
    def data_folder(self) -> str:
        """Of the preprocessed images."""
        return os.path.join(self.preprocessed_folder, self.data_identifier)

    @property
    def source(self) -> ModelFolder:
        """The finished model that it begins with or is taught by."""
        raise NotImplementedError

    @property
    def written(self) -> list[str]:
        """What a run makes or changes, files and folders."""
        return [self.plans_file, *([self.data_folder] if self.waits_for_data else []), self.model_folder]

    def states(self) -> dict[int | str, str]:
        """How far the folds are that are begun, in words."""
        begun = [f for f in self.folds if os.path.isdir(self.fold_folder(f))]
        return {f: "is trained" if os.path.isfile(os.path.join(self.fold_folder(f), FINAL)) else "goes on"
                for f in begun}

    @property
    def network_parameters(self) -> int:
        return count_parameters(network_of(*self._network))

    @property
    def memory(self) -> Need | None:
        """Of a step of the training, estimated; None where that is not known."""
        return training_need(*self._network)

    @property
    def _network(self) -> tuple[dict, int, int]:
        dataset_json = read_json(os.path.join(self.preprocessed_folder, "dataset.json"))
        own = replace(self.source, plans=self.plans, dataset_json=dataset_json, configuration=self.configuration)
        return self.plans["configurations"][self.configuration], own.num_input_channels, own.num_outputs

    @property
    def plans_file(self) -> str:
        return os.path.join(self.preprocessed_folder, f"{self.plans_name}.json")

    @property
    def model_folder(self) -> str:
        return self.folder_of(self.trainer)

    def folder_of(self, trainer: str) -> str:
        """Model folder of any trainer with these plans."""
        return get_output_folder(self.dataset, trainer, self.plans_name, self.configuration)

    def fold_folder(self, fold: int | str) -> str:
        return os.path.join(self.model_folder, f"fold_{fold}")


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """A finished training. `validation_dice`: nnU-Net's foreground mean by fold, of the validation cases; empty where
    nothing was validated. `remarks`: what the user must know, a line each. `commands`: what to do next, each with what
    it does."""

    model_folder: str
    dataset: str
    configuration: str
    trainer: str
    plans_name: str
    folds: list[int | str]
    validation_dice: dict[int | str, float]
    remarks: list[str]
    commands: tuple[Command, ...] = ()

    @classmethod
    def of(cls, job: TrainingJob, validation_dice: dict[int | str, float], **more):
        """`more`: fields of a subclass, and what differs from the job's."""
        return cls(**{"model_folder": job.model_folder, "dataset": job.dataset, "configuration": job.configuration,
                      "trainer": job.trainer, "plans_name": job.plans_name, "folds": job.folds,
                      "validation_dice": validation_dice, "remarks": job.remarks, **more})


def check_request(plans_name: str, rate: float | None = None) -> None:
    """Raises StitchError for what no training can do with."""
    require_plans_name(plans_name)
    if not nnUNet_results.is_set():
        raise StitchError("environment variable nnUNet_results is not set; set nnU-Net's three folders first")
    if rate is not None and not 0 < rate < float("inf"):
        raise StitchError(f"-lr {rate} is not a number above 0")


def checked(job: TrainingJob, continue_training: bool, dry_run: bool = False) -> TrainingJob:
    """The job with what earlier commands have done under its name.

    `dry_run`: folders that cannot be written to are no obstacle; see `closed_folder`.

    Raises:
        StitchError: that does not go with the job; data are missing, folders cannot be written to, or a fold is there
            without `--c`.
    """
    job = with_earlier_folds(job)
    if not job.waits_for_data:
        require_data(job)
    if (closed := closed_folder(job)) and not dry_run:
        raise StitchError(f"no permission to write into {closed}; change its permissions or the nnU-Net folders")
    started = [f for f in job.folds if os.path.isdir(job.fold_folder(f))]
    if started and not continue_training:
        raise StitchError(f"{job.model_folder} already holds fold {started[0]}; add --c to go on, -o_p NAME to keep it "
                          f"and make another, or delete it")
    return job


def closed_folder(job: TrainingJob) -> str | None:
    """The first of the job's folders that may not be written to."""
    results = os.path.dirname(os.path.dirname(job.model_folder))
    return next((f for f in (job.preprocessed_folder, results) if not is_writable(f)), None)


def require_data(job: TrainingJob) -> None:
    """Raises StitchError if nnU-Net's trainer lacks anything of the job's data."""
    require_trainable(job.preprocessed_folder, job.data_identifier, job.folds,
                      f"the images must be preprocessed here by {job.record.whose} plans; run nnUNetv2_preprocess "
                      f"-d {stock_id(job.dataset)} -c {job.configuration}")
