"""What a training from a merged model was asked to be. It travels in the plans, so that stock nnUNetv2_train does the
same."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.training.records import FROM_MERGED as KEY
from nnunetv2_stitch.training.records import below_results

#: Fields that may not change between a training and its continuation, and among folds: the flag that sets each.
FLAGS = {"model": "-m", "learning_rate": "-lr", "seed": "-seed", "num_epochs": "-epochs",
         "num_iterations_per_epoch": "-iterations"}


@dataclass(frozen=True)
class FromMerged:
    """Where a training starts, and how it goes.

    `model`: the merged model's folder, relative to nnUNet_results where it lies inside. `folds`: by the party's fold,
    the merged model's `fold`, the `checkpoint`'s path below `model`, its `sha256`, and the axes along which it may be
    mirrored (`mirroring`).
    """

    model: str
    learning_rate: float
    seed: int = 12345
    num_epochs: int | None = None
    num_iterations_per_epoch: int | None = None
    folds: Mapping[str, Mapping] = field(default_factory=dict)

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def of(cls, configuration: Mapping, plans_name: str) -> FromMerged:
        """From a configuration of plans.

        Raises:
            StitchError: these plans name no merged model.
        """
        if KEY not in configuration:
            raise StitchError(f"plans {plans_name} name no merged model; run nnUNetv2_train_party first")
        return cls(**configuration[KEY])

    def of_fold(self, fold: int | str) -> Mapping:
        """Raises StitchError if the plans name no checkpoint for this fold."""
        if str(fold) not in self.folds:
            raise StitchError(f"the plans name no merged model for fold {fold}, only for folds "
                              f"{', '.join(self.folds)}; run nnUNetv2_train_party with -f {fold}")
        return self.folds[str(fold)]

    def checkpoint(self, fold: int | str) -> str:
        """Path of the checkpoint that the fold begins with."""
        return os.path.join(below_results(self.model), *self.of_fold(fold)["checkpoint"].split("/"))
