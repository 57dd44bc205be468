"""Teach a student in every fold, and validate."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint

from nnunetv2_stitch.distillation.deployment import deploy_best
from nnunetv2_stitch.distillation.prepare import TRAINER, DistillJob, DistillRequest, prepare
from nnunetv2_stitch.distillation.unlabelled import preprocess_unlabelled
from nnunetv2_stitch.environment import our_trainers_known
from nnunetv2_stitch.fileio import read_json, write_json
from nnunetv2_stitch.parties.model_folder import FINAL


@dataclass(frozen=True)
class DistillResult:
    """A finished student. `validation_dice`: nnU-Net's foreground mean by fold, of the validation cases; empty where
    nothing was validated. `parameters` are of student and teacher."""

    model_folder: str
    dataset: str
    configuration: str
    trainer: str
    plans_name: str
    folds: list[int | str]
    start: str
    parameters: tuple[int, int]
    validation_dice: dict[int | str, float]


@our_trainers_known()
def distill(teacher: str, dataset: str | int, *, device: str | torch.device = "cuda", continue_training: bool = False,
            validate: bool = True, progress: bool = True, say: Callable[[str], None] = lambda line: None,
            **request) -> DistillResult:
    """Teach one plain network what a stitched ensemble knows, on the host's images.

    Args:
        teacher: model folder of the stitched ensemble.
        dataset: the host's, by id or name, preprocessed here.
        device: where to compute.
        continue_training: go on after an interruption; folds and epochs that are done are kept.
        validate: predict each fold's validation cases, as nnU-Net does at the end of a training.
        progress: show progress bars.
        say: receives one line per step.
        **request: the other fields of `DistillRequest`.

    Raises:
        StitchError: bad input, before anything is written; or an image without labels that cannot be read.
    """
    job = prepare(DistillRequest(teacher, dataset, **request), continue_training)
    device = torch.device(device)
    if job.request.unlabelled is not None:
        preprocess_unlabelled(job.request.unlabelled, os.path.join(job.preprocessed_folder, job.record.unlabelled),
                              job.plans, job.configuration, job.dataset_json, job.record.unlabelled_sha256, progress)
    write_json(job.plans_file, job.plans)
    dice = {}
    for fold in job.folds:
        trainer = _train_fold(job, fold, device, continue_training, say)
        if validate:
            dice[fold] = _validate_fold(job, fold, device, trainer, say)
    return DistillResult(job.model_folder, job.dataset, job.configuration, TRAINER, job.request.plans_name, job.folds,
                         job.record.start, job.parameters, dice)


def _train_fold(job: DistillJob, fold: int | str, device: torch.device, continue_training: bool,
                say: Callable[[str], None]):
    """The trainer after its last epoch; None where the fold was trained before."""
    folder = job.fold_folder(fold)
    if os.path.isfile(os.path.join(folder, FINAL)):
        deploy_best(folder)  # a kill may have come between the two
        say(f"fold {fold}: trained before")
        return None
    say(f"fold {fold}: training the student" + ("" if job.record.weight else ", without a teacher"))
    trainer = _trainer(job, fold, continue_training, device)
    maybe_load_checkpoint(trainer, continue_training, False)
    trainer.run_training()
    return trainer


def _trainer(job: DistillJob, fold: int | str, continue_training: bool, device: torch.device):
    return get_trainer_from_args(job.dataset, job.configuration, fold, TRAINER, job.request.plans_name,
                                 continue_training, device)


def _validate_fold(job: DistillJob, fold: int | str, device: torch.device, trainer,
                   say: Callable[[str], None]) -> float:
    """nnU-Net's own validation, by the trainer that has just trained or else from the final checkpoint."""
    summary = os.path.join(job.fold_folder(fold), "validation", "summary.json")
    if not os.path.isfile(summary):
        say(f"fold {fold}: validation with nnU-Net's sliding window")
        if trainer is None:
            trainer = _trainer(job, fold, False, device)
            maybe_load_checkpoint(trainer, False, True)
        trainer.perform_actual_validation(False)
    return read_json(summary)["foreground_mean"]["Dice"]
