"""The folds of a checked job: taken for this command alone, trained one after the other, and validated."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import torch

from nnunetv2_stitch.fileio import make_folder, write_json, write_text
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
    written into them since the job was prepared; and `before` anything is trained, alone with the plans, other data.

    Raises:
        StitchError: a fold is taken, or what is there by now does not go with the job; or what `before` raises, and
            then nothing is begun.
    """
    with FoldLocks(job.model_folder) as folds:
        with plans_locked(job.plans_file, lambda: say(f"waiting for another command that writes {job.plans_file}")):
            job = checked(job, continue_training)
            with _begun(job):
                write_json(job.plans_file, job.plans)
                before(job)
                folds.take(job.folds)
        yield job


@contextmanager
def _begun(job: TrainingJob) -> Iterator[None]:
    """The folders of the folds are there, by which others see that these are begun; the plans are written within. They
    are first of all, so that `--c` knows what was asked for whenever a kill comes, and taken back where the rest fails.
    """
    previous = Path(job.plans_file).read_text() if os.path.isfile(job.plans_file) else None
    made = [folder for fold in job.folds for folder in make_folder(job.fold_folder(fold))]
    try:
        yield
    except Exception:
        for folder in reversed(made):
            with suppress(OSError):  # something else was put there
                os.rmdir(folder)
        if previous is not None:
            write_text(job.plans_file, previous)
        elif os.path.isfile(job.plans_file):
            os.remove(job.plans_file)
        raise


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
