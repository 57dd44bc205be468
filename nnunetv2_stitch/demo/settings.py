"""What the demo and its parents train and for how long, and the environment that nnU-Net reads."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, fields

from nnunetv2_stitch.environment import usable_cores

CONFIGURATION = "2d"
PLANS = "nnUNetPlans"
FOLD = 0


@dataclass(frozen=True)
class DemoSettings:
    """Small enough for a CPU; everything else is nnU-Net's default.

    `features`: channels per stage of both parents' U-Nets, which also gives the number of stages. `trainer`: one of
    nnU-Net's own short trainers. `adapt_epochs` of `adapt_iterations` train the partner on; `stitch_iterations`
    fit the stitches directly. `stitch_epochs` is of benchmarks, which train them.
    """

    features: tuple[int, ...] = (12, 24, 48, 96, 96)
    batch_size: int = 4
    trainer: str = "nnUNetTrainer_5epochs"
    adapt_epochs: int = 2
    adapt_iterations: int = 60
    stitch_epochs: int = 6
    stitch_iterations: int = 50
    seed: int = 12345

    def to_json(self) -> dict:
        return {**asdict(self), "features": list(self.features)}

    @classmethod
    def from_json(cls, value: dict) -> DemoSettings:
        known = {f.name for f in fields(cls)}
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in value.items() if k in known})


#: Of the demo, with the seed of the parents that the package ships.
DEMO = DemoSettings(seed=1)


def environment(folder: str) -> dict[str, str]:
    """The variables of nnU-Net for a demo in `folder`."""
    folders = {f"nnUNet_{name}": os.path.join(folder, f"nnUNet_{name}") for name in ("raw", "preprocessed", "results")}
    return {
        **folders,
        # Augmentation in the training process: measured faster than 1 or 2 workers on 2 cores, which have enough to
        # do with the network, and repeatable, because workers race for who delivers the next batch.
        "nnUNet_n_proc_DA": "0",
        "nnUNet_def_n_proc": str(min(4, usable_cores())),
        "nnUNet_compile": "false",  # compiling takes longer than these trainings
        "nnUNet_wandb_enabled": "0",
    }
