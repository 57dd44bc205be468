"""What a distillation was asked to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nnunetv2_stitch.training.records import BUDGET_FLAGS, DISTILLATION, TrainingRecord


@dataclass(frozen=True, kw_only=True)
class Distillation(TrainingRecord):
    """How a student is taught.

    `teacher`: its model folder, relative to nnUNet_results where it lies inside. `student`: `host`, or the plans it
    was taken from. `start`: `host` or `scratch`. `host`: the host's model folder and checkpoint name. `folds`: by the
    student's fold, the sha256 of the `teacher`, and the `host`'s fold and its sha256. `unlabelled`: the folder of
    preprocessed images without labels, in the dataset's preprocessed folder; empty for none.
    """

    teacher: str
    student: str = "host"
    start: str = "host"
    weight: float = 1.0
    unlabelled: str = ""
    unlabelled_cases: int = 0
    unlabelled_sha256: str = ""
    host: Mapping = field(default_factory=dict)

    key, source, command = DISTILLATION, "teacher", "nnUNetv2_distill_stitched"
    flags = {"teacher": "-m", "student": "-student", "start": "-start", "weight": "-weight", **BUDGET_FLAGS,
             "unlabelled_cases": "-unlabelled", "unlabelled_sha256": "-unlabelled"}
