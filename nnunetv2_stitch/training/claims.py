"""What a training may write while others work under the same name: the plans in turn, its own folds alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from nnunetv2_stitch.fileio import write_json
from nnunetv2_stitch.locks import FoldLocks, plans_locked
from nnunetv2_stitch.training.continuing import with_earlier_folds
from nnunetv2_stitch.training.job import TrainingJob, check_folders

Job = TypeVar("Job", bound=TrainingJob)


@contextmanager
def claimed(job: Job, continue_training: bool, say: Callable[[str], None] = lambda line: None,
            before: Callable[[Job], None] = lambda job: None) -> Iterator[Job]:
    """Within the context the job's folds are this command's alone. Its plans are written, with what other commands have
    written into them since the job was prepared; `before` that, alone with the plans as well, other data are.

    Raises:
        StitchError: a fold is taken, or what is there by now does not go with the job.
    """
    with FoldLocks(job.model_folder) as folds:
        with plans_locked(job.plans_file, lambda: say(f"waiting for another command that writes {job.plans_file}")):
            job = with_earlier_folds(job)
            check_folders(job, continue_training)
            before(job)
            folds.take(job.folds)
            write_json(job.plans_file, job.plans)
            for fold in job.folds:  # others see by the folders that folds are begun
                os.makedirs(job.fold_folder(fold), exist_ok=True)
        yield job
