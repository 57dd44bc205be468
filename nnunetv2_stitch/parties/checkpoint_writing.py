"""The one writer of nnU-Net checkpoints: as they are handed on, and of networks that were never trained; and how a
training goes on from them."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import atomically
from nnunetv2_stitch.nnunet_internals import restore_progress
from nnunetv2_stitch.parties.checkpoint import load_checkpoint

TRAINER = "nnUNetTrainer"  # builds every network that its plans describe, so stock prediction needs nothing of ours
TRAINED_BY_KEY = "stitch_trainer_name"  # in deployed checkpoints only: the trainer in whose place TRAINER is named


def write_checkpoint(path: str, checkpoint: Mapping[str, Any]) -> None:
    """Whole or not at all.

    Raises:
        StitchError: the folder cannot be written to.
    """
    atomically(path, lambda temporary: torch.save(dict(checkpoint), temporary))


def checkpoint_bytes(checkpoint: Mapping[str, Any]) -> bytes:
    """What the file holds; not by way of a file, whose name torch would write into the zip that a checkpoint is."""
    buffer = io.BytesIO()
    torch.save(dict(checkpoint), buffer)
    return buffer.getvalue()


def is_deployed(checkpoint: Mapping[str, Any]) -> bool:
    """Whether training is over and `deployed` has been at it."""
    return TRAINED_BY_KEY in checkpoint


def require_deployed(path: str, checkpoint: Mapping[str, Any]) -> None:
    """Raises StitchError for a stitched ensemble in training: all its stitches are active, which is no answer."""
    if checkpoint.get("trainer_name", TRAINER) != TRAINER:
        raise StitchError(f"{path} is of a training that has not ended: no position is chosen and deployed yet; run "
                          f"the same nnUNetv2_train_stitch command with --c first")


def load_training(trainer, path: str, stock_load: Callable[[str], None]) -> Mapping[str, Any] | None:
    """A training checkpoint as nnU-Net's `stock_load` does. A finished one has no optimizer: it is returned, for its
    weights to be taken, with the rest taken over."""
    if not trainer.was_initialized:
        trainer.initialize()
    checkpoint = load_checkpoint(path)
    if not is_deployed(checkpoint):
        stock_load(path)
        return None
    restore_progress(trainer, checkpoint)
    return checkpoint


def deployed(checkpoint: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """`stock` that keeps on record which trainer has trained it."""
    return {TRAINED_BY_KEY: checkpoint["trainer_name"], **stock(checkpoint, **changes)}


def stock(checkpoint: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """A training checkpoint, with `changes`, in the name of nnUNetTrainer and without optimizer; it loads with
    `weights_only=True` and no allowed globals."""
    told = {**checkpoint, **changes, "optimizer_state": {}, "grad_scaler_state": None, "trainer_name": TRAINER}
    return {k: v if k == "network_weights" else plain(v) for k, v in told.items()}


def untrained(weights: Mapping[str, torch.Tensor], configuration: str, fold: int | str,
              mirroring: Sequence[int] | None) -> dict[str, Any]:
    """A checkpoint of weights that no training has come to.

    Args:
        mirroring: axes for nnU-Net's test-time mirroring.
    """
    return {"network_weights": dict(weights), "optimizer_state": {}, "grad_scaler_state": None, "logging": {},
            "_best_ema": None, "current_epoch": 0, "init_args": {"configuration": configuration, "fold": fold},
            "trainer_name": TRAINER, "inference_allowed_mirroring_axes": mirroring}


def plain(value: Any) -> Any:
    """Numpy values as python ones."""
    if isinstance(value, Mapping):
        return {plain(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(v) for v in value)
    if isinstance(value, np.generic):
        return value.item()
    return value.tolist() if isinstance(value, np.ndarray) else value
