"""What a command may write while others work on the same model: the plans in turn, its own folds alone.

Folds may be trained by commands that run at the same time, on machines that share their folders. So the plans are read
again before they are written, nobody writes a fold that another command holds, and choices are made one after another.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager

from nnunetv2_stitch.fileio import write_json
from nnunetv2_stitch.locks import FoldLocks, locked, plans_locked
from nnunetv2_stitch.pipeline.continuing import as_begun, check_folders, note_places, previous_plans, require_same_data
from nnunetv2_stitch.pipeline.job import Job


class Claim(FoldLocks):
    """The folds that this command alone may write, from `begin` or `take` to the end of the context."""

    def __init__(self, job: Job, say: Callable[[str], None] = lambda line: None):
        super().__init__(job.model_folder)
        self.job, self.say = job, say

    def begin(self, continue_training: bool) -> None:
        """Take the job's folds and write the plans, with what other commands have written into them since.

        Raises:
            StitchError: a fold is taken, or what is there does not go with the job.
        """
        job = self.job
        with plans_locked(job.plans_file):
            previous = previous_plans(job.plans_file)
            as_begun(job, previous)
            check_folders(job, previous, continue_training)
            require_same_data(job, previous)
            self.take(job.folds)
            for name, other in (previous or {}).get("configurations", {}).items():
                job.plans["configurations"].setdefault(name, other)
            write_json(job.plans_file, job.plans)
            for fold in job.folds:  # others see by the folders that folds are begun
                os.makedirs(os.path.join(job.model_folder, f"fold_{fold}"), exist_ok=True)

    def note_places(self) -> None:
        """The plans name the parents' present places from now on."""
        with plans_locked(self.job.plans_file):
            note_places(self.job)

    def choosing(self) -> AbstractContextManager[None]:
        """Alone in choosing the position and deploying it."""
        return locked(os.path.join(self.job.model_folder, ".selection.lock"),
                      lambda: self.say("waiting for another command that is choosing the position"))
