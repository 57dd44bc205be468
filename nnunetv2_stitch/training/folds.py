"""The folds of a checked job: taken for this command alone, trained one after the other, and validated."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from nnunetv2_stitch.fileio import write_json
from nnunetv2_stitch.locks import FoldLocks, plans_locked
from nnunetv2_stitch.parties.model_folder import FINAL
from nnunetv2_stitch.training.checkpoints import deploy_best
from nnunetv2_stitch.training.job import TrainingJob, checked
from nnunetv2_stitch.training.stock import train_network, validate_network

Job = TypeVar("Job", bound=TrainingJob)
Say = Callable[[str], None]


@contextmanager
def claimed(job: Job, continue_training: bool, say: Say = lambda line: None,
            before: Callable[[Job], None] = lambda job: None) -> Iterator[Job]:
    """Within the context the job's folds are this command's alone. Its plans are written, with what other commands have
    written into them since the job was prepared; `before` that, alone with the plans as well, other data are.

    Raises:
        StitchError: a fold is taken, or what is there by now does not go with the job.
    """
    with FoldLocks(job.model_folder) as folds:
        with plans_locked(job.plans_file, lambda: say(f"waiting for another command that writes {job.plans_file}")):
            job = checked(job, continue_training)
            before(job)
            folds.take(job.folds)
            write_json(job.plans_file, job.plans)
            for fold in job.folds:  # others see by the folders that folds are begun
                os.makedirs(job.fold_folder(fold), exist_ok=True)
        yield job


@contextmanager
def trained(job: Job, device: torch.device, continue_training: bool, say: Say, doing: str,
            before: Callable[[Job], None] = lambda job: None,
            validate: bool = False) -> Iterator[tuple[Job, dict[int | str, float]]]:
    """Within the context the job's folds are trained, and this command's alone: the job as it was trained, and what
    validation found by fold.

    Args:
        doing: what is said before a fold.
        before: see `claimed`.
        validate: predict each fold's validation cases, as nnU-Net does at the end of a training.
    """
    dice = {}
    with claimed(job, continue_training, say, before) as job:
        for fold in job.folds:
            running = _train_fold(job, fold, device, say, doing)
            if validate:
                dice[fold] = validate_fold(job, fold, device, say, running)
        yield job, dice


def train_folds(*arguments, **named) -> tuple[TrainingJob, dict[int | str, float]]:
    """`trained`, where nothing is left to do with the folds."""
    with trained(*arguments, **named) as done:
        return done


def _train_fold(job: TrainingJob, fold: int | str, device: torch.device, say: Say, doing: str):
    """The trainer after its last epoch; None where the fold was trained before."""
    folder = job.fold_folder(fold)
    done = os.path.isfile(os.path.join(folder, FINAL))
    say(f"fold {fold}: {'trained before' if done else doing}")
    if done:
        deploy_best(folder)  # a kill may have come between the two
        return None
    return train_network(job.dataset, job.configuration, fold, job.trainer, job.plans_name, device,
                         seed=job.record.seed)


def validate_fold(job: TrainingJob, fold: int | str, device: torch.device, say: Say = lambda line: None, running=None,
                  trainer: str | None = None) -> float:
    """See `validate_network`.

    Args:
        running: the trainer that has just trained; None for one that reads the final checkpoint.
        trainer: name of another trainer whose model of these plans is meant.
    """
    return validate_network(job.dataset, job.configuration, fold, trainer or job.trainer, job.plans_name, device,
                            running, say)
