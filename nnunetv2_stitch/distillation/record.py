"""What a distillation was asked to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nnunetv2.paths import nnUNet_results

from nnunetv2_stitch.stitching.plans import recorded_checkpoint
from nnunetv2_stitch.training.records import BUDGET_FLAGS, DISTILLATION, TrainingRecord, below_results

HOST = "host"


@dataclass(frozen=True, kw_only=True)
class Distillation(TrainingRecord):
    """How a student is taught.

    `teacher`: its model folder, relative to nnUNet_results where it lies inside. `student`: `host`, or the plans it
    was taken from. `start`: `host` or `scratch`. `host`: the host's model folder and checkpoint name. `folds`: by the
    student's fold, the sha256 of the `teacher`, and the `host`'s fold and its sha256. `unlabelled`: the folder of
    preprocessed images without labels, in the dataset's preprocessed folder; empty for none.
    """

    teacher: str
    student: str = HOST
    start: str = HOST
    weight: float = 1.0
    unlabelled: str = ""
    unlabelled_cases: int = 0
    unlabelled_sha256: str = ""
    host: Mapping = field(default_factory=dict)

    key, command, trainer = DISTILLATION, "nnUNetv2_distill_stitched", "nnUNetTrainerStitchDistilled"
    file, kind, source = "distillation.json", "a distilled student", "teacher"
    changed = "another teacher or host (sha256 or gate differs): the stitched model was made or deployed anew since"
    flags = {"teacher": "-m", "student": "-student", "start": "-start", "weight": "-weight", **BUDGET_FLAGS,
             "unlabelled_cases": "-unlabelled", "unlabelled_sha256": "-unlabelled"}

    @property
    def whose(self) -> str:
        return "the host's" if self.student == HOST else self.student

    @property
    def teacher_folder(self) -> str:
        return below_results(self.teacher)

    def host_checkpoint(self, fold: int | str) -> str:
        """Path of the checkpoint that the student's fold begins with."""
        return recorded_checkpoint(self.host["folder"], self.host["checkpoint"], self.of_fold(fold)["host"],
                                   str(nnUNet_results))
