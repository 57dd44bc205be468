"""A trained network's checkpoint as it is handed on: nnU-Net's own, of nnU-Net's own trainer."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch

from nnunetv2_stitch.fileio import atomically
from nnunetv2_stitch.fitting.session import STITCH_TRAINER_KEY
from nnunetv2_stitch.parties.checkpoint import load_checkpoint
from nnunetv2_stitch.selection.deploy import plain
from nnunetv2_stitch.training.records import without_records


def is_deployed(checkpoint: Mapping) -> bool:
    return STITCH_TRAINER_KEY in checkpoint


def deployed(checkpoint: Mapping) -> dict:
    """A training checkpoint without optimizer and without folders of this machine, in the name of nnUNetTrainer,
    which builds the same network; it loads with `weights_only=True` and needs nothing of this package."""
    arguments = {**checkpoint["init_args"], "plans": without_records(checkpoint["init_args"]["plans"])}
    rest = {k: plain(v) for k, v in {**checkpoint, "init_args": arguments}.items() if k != "network_weights"}
    return {"network_weights": checkpoint["network_weights"], **rest, "optimizer_state": {}, "grad_scaler_state": None,
            STITCH_TRAINER_KEY: checkpoint["trainer_name"], "trainer_name": "nnUNetTrainer"}


def deploy_best(fold_folder: str) -> None:
    """Rewrite `checkpoint_best.pth` of a finished training, which may be gone on with no more."""
    path = os.path.join(fold_folder, "checkpoint_best.pth")
    if os.path.isfile(path) and not is_deployed(checkpoint := load_checkpoint(path)):
        atomically(path, lambda temporary: torch.save(deployed(checkpoint), temporary))
