"""What an adaptation was asked to be. It travels in the plans, so that stock nnUNetv2_train does the same."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.training.records import ADAPTATION as KEY
from nnunetv2_stitch.training.records import below_results

#: Fields that may not change between a training and its continuation, and among folds: the flag that sets each.
FLAGS = {"model": "-m_b", "learning_rate": "-lr", "seed": "-seed", "num_epochs": "-epochs",
         "num_iterations_per_epoch": "-iterations", "channels": "-channel_map", "outputs": "-label_map"}


@dataclass(frozen=True)
class Adaptation:
    """Where a training starts, and how it goes.

    `model`: the partner's model folder, relative to nnUNet_results where it lies inside. `channels`: for each input
    channel of the host the partner's, None for one that it does not know. `outputs`: for each output of the host the
    partner's that mean it. `folds`: by the host's fold, the partner's `fold`, the `checkpoint`'s path below `model`,
    its `sha256`, and the axes along which it may be mirrored (`mirroring`).
    """

    model: str
    learning_rate: float
    seed: int
    num_epochs: int
    num_iterations_per_epoch: int | None
    channels: Sequence[int | None]
    outputs: Sequence[Sequence[int]]
    folds: Mapping[str, Mapping] = field(default_factory=dict)

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def of(cls, configuration: Mapping, plans_name: str) -> Adaptation:
        """From a configuration of plans.

        Raises:
            StitchError: these plans name no partner.
        """
        if KEY not in configuration:
            raise StitchError(f"plans {plans_name} name no partner; run nnUNetv2_adapt_party first")
        return cls(**configuration[KEY])

    def of_fold(self, fold: int | str) -> Mapping:
        """Raises StitchError if the plans name no checkpoint for this fold."""
        if str(fold) not in self.folds:
            raise StitchError(f"the plans name no partner for fold {fold}, only for folds {', '.join(self.folds)}; run "
                              f"nnUNetv2_adapt_party with -f {fold}")
        return self.folds[str(fold)]

    def checkpoint(self, fold: int | str) -> str:
        """Path of the partner's checkpoint that the fold begins with."""
        return os.path.join(below_results(self.model), *self.of_fold(fold)["checkpoint"].split("/"))
