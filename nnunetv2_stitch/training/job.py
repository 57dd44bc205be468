"""A checked training of ours: where it reads and writes, its folds one after the other, and their validation."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import torch
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_results
from nnunetv2.run.run_training import maybe_load_checkpoint

from nnunetv2_stitch.devices import trainer_for
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import is_writable, read_json
from nnunetv2_stitch.parties.model_folder import FINAL
from nnunetv2_stitch.parties.preprocessed import require_trainable
from nnunetv2_stitch.training.checkpoints import deploy_best


class TrainingJob:
    """A job has `dataset`, `configuration`, `plans_name`, `folds`, `plans` to be written, and `record`, which goes into
    them under `key`. `flags`: fields of the record that may not change between a training and its
    continuation, and among folds, with the flag that sets each. `name_flag` sets the plans' name. `kind`, `whose` and
    `changed` are for messages: what is made, whose plans its data are preprocessed by, and what is wrong where a fold
    was begun with other files."""

    waits_for_data = False  # the job itself preprocesses the images, and has not done so yet
    trainer: str
    key: str
    whose: str
    flags: Mapping[str, str]
    name_flag: str
    kind: str
    changed: str

    @property
    def preprocessed_folder(self) -> str:
        return os.path.join(str(nnUNet_preprocessed), self.dataset)

    @property
    def plans_file(self) -> str:
        return os.path.join(self.preprocessed_folder, f"{self.plans_name}.json")

    @property
    def model_folder(self) -> str:
        return os.path.join(str(nnUNet_results), self.dataset,
                            f"{self.trainer}__{self.plans_name}__{self.configuration}")

    def fold_folder(self, fold: int | str) -> str:
        return os.path.join(self.model_folder, f"fold_{fold}")


def check_folders(job: TrainingJob, continue_training: bool) -> None:
    """
    Raises:
        StitchError: data are missing, folders cannot be written to, or a fold is there without `--c`.
    """
    if not job.waits_for_data:
        require_data(job)
    results = os.path.dirname(os.path.dirname(job.model_folder))
    for folder in (job.preprocessed_folder, results):
        if not is_writable(folder):
            raise StitchError(f"no permission to write into {folder}; change its permissions or the nnU-Net folders")
    started = [f for f in job.folds if os.path.isdir(job.fold_folder(f))]
    if started and not continue_training:
        raise StitchError(f"{job.model_folder} already holds fold {started[0]}; add --c to go on, {job.name_flag} NAME "
                          f"to keep it and make another, or delete it")


def require_data(job: TrainingJob) -> None:
    """Raises StitchError if nnU-Net's trainer lacks anything of the job's data."""
    require_trainable(job.preprocessed_folder, job.plans["configurations"][job.configuration]["data_identifier"],
                      job.folds, f"the images must be preprocessed here by {job.whose} plans; run nnUNetv2_preprocess "
                                 f"-d {job.dataset} -c {job.configuration}")


def train_fold(job: TrainingJob, fold: int | str, device: torch.device, continue_training: bool,
               say: Callable[[str], None], doing: str):
    """The trainer after its last epoch; None where the fold was trained before. `doing` is said before."""
    folder = job.fold_folder(fold)
    if os.path.isfile(os.path.join(folder, FINAL)):
        deploy_best(folder)  # a kill may have come between the two
        say(f"fold {fold}: trained before")
        return None
    say(f"fold {fold}: {doing}")
    trainer = _trainer(job, fold, continue_training, device)
    maybe_load_checkpoint(trainer, continue_training, False)
    trainer.run_training()
    return trainer


def validate_fold(job: TrainingJob, fold: int | str, device: torch.device, trainer,
                  say: Callable[[str], None]) -> float:
    """nnU-Net's own validation, by the trainer that has just trained or else from the final checkpoint; its foreground
    mean of Dice."""
    summary = os.path.join(job.fold_folder(fold), "validation", "summary.json")
    if not os.path.isfile(summary):
        say(f"fold {fold}: validation with nnU-Net's sliding window")
        if trainer is None:
            trainer = _trainer(job, fold, False, device)
            maybe_load_checkpoint(trainer, False, True)
        trainer.perform_actual_validation(False)
    return read_json(summary)["foreground_mean"]["Dice"]


def _trainer(job: TrainingJob, fold: int | str, continue_training: bool, device: torch.device):
    return trainer_for(job.dataset, job.configuration, fold, job.trainer, job.plans_name, continue_training, device)
