"""What a distillation was asked to be. It travels in the plans, so that stock nnUNetv2_train does the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.training.records import DISTILLATION as KEY

#: Fields that may not change between a training and its continuation, and among folds: the flag that sets each.
FLAGS = {"teacher": "-m", "student": "-student", "start": "-start", "weight": "-weight", "seed": "-seed",
         "num_epochs": "-epochs", "num_iterations_per_epoch": "-iterations", "unlabelled_cases": "-unlabelled",
         "unlabelled_sha256": "-unlabelled"}


@dataclass(frozen=True)
class Distillation:
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
    seed: int = 12345
    num_epochs: int | None = None
    num_iterations_per_epoch: int | None = None
    unlabelled: str = ""
    unlabelled_cases: int = 0
    unlabelled_sha256: str = ""
    host: Mapping = field(default_factory=dict)
    folds: Mapping[str, Mapping] = field(default_factory=dict)

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def of(cls, configuration: Mapping, plans_name: str) -> Distillation:
        """From a configuration of plans.

        Raises:
            StitchError: these plans are not for distilling.
        """
        if KEY not in configuration:
            raise StitchError(f"plans {plans_name} name no teacher; run nnUNetv2_distill_stitched first")
        return cls(**configuration[KEY])

    def of_fold(self, fold: int | str) -> Mapping:
        """Raises StitchError if the plans name no teacher for this fold."""
        if str(fold) not in self.folds:
            raise StitchError(f"the plans name no teacher for fold {fold}, only for folds {', '.join(self.folds)}; run "
                              f"nnUNetv2_distill_stitched with -f {fold}")
        return self.folds[str(fold)]
