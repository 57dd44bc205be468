"""A trained network's checkpoint as it is handed on: nnU-Net's own, of nnU-Net's own trainer."""

from __future__ import annotations

import os
from collections.abc import Mapping

from nnunetv2_stitch.parties.checkpoint import load_checkpoint
from nnunetv2_stitch.parties.checkpoint_writing import deployed, is_deployed, write_checkpoint
from nnunetv2_stitch.training.records import without_records


def handed_on(checkpoint: Mapping) -> dict:
    """A training checkpoint as `deployed`, and without folders of this machine in its plans."""
    arguments = checkpoint["init_args"]
    return deployed(checkpoint, init_args={**arguments, "plans": without_records(arguments["plans"])})


def deploy_best(fold_folder: str) -> None:
    """Rewrite `checkpoint_best.pth` of a finished training, which may be gone on with no more."""
    path = os.path.join(fold_folder, "checkpoint_best.pth")
    if os.path.isfile(path) and not is_deployed(checkpoint := load_checkpoint(path)):
        write_checkpoint(path, handed_on(checkpoint))
