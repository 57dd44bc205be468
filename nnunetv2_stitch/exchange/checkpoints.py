"""nnU-Net checkpoints with nothing but what prediction and stitching read."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from nnunetv2_stitch.exchange.manifest import mirroring_axes
from nnunetv2_stitch.exchange.plain import is_whole
from nnunetv2_stitch.exchange.trainer_check import STOCK
from nnunetv2_stitch.exchange.weights import require_uncompressed
from nnunetv2_stitch.parties.checkpoint import load_checkpoint, network_weights
from nnunetv2_stitch.parties.reading import ModelFolder

READ = ("network_weights", "current_epoch", "inference_allowed_mirroring_axes")


@dataclass(frozen=True)
class Trained:
    """What was taken from a checkpoint; `dropped` names its other fields."""

    weights: dict[str, torch.Tensor]
    epochs: int | None
    mirroring_axes: tuple[int, ...] | None
    dropped: tuple[str, ...]


def read_checkpoint(path: str) -> Trained:
    """Read a checkpoint of anyone's without running anything in it.

    Raises:
        StitchError: see `load_checkpoint`; or compressed parts, or mirroring axes that are none.
    """
    require_uncompressed(path)
    checkpoint = load_checkpoint(path)
    epochs = checkpoint.get("current_epoch")
    return Trained(network_weights(checkpoint), epochs if is_whole(epochs, 0, 10**9) else None,
                   mirroring_axes(checkpoint.get("inference_allowed_mirroring_axes"), path),
                   tuple(sorted(str(k) for k in checkpoint if k not in READ)))


def clean_checkpoint(model: ModelFolder, fold: int | str, weights: Mapping[str, torch.Tensor], epochs: int | None,
                     axes: tuple[int, ...] | None) -> bytes:
    """A file that stock nnU-Net and this package load as checkpoint_final.pth.

    The trainer is nnU-Net's own whoever trained, because the network was checked to be the one of the plans and a
    receiver need not have the sender's trainer.
    """
    fields = {
        "network_weights": dict(weights),
        "current_epoch": epochs or 0,
        "init_args": {"plans": model.plans, "configuration": model.configuration, "fold": fold,
                      "dataset_json": model.dataset_json},
        "trainer_name": STOCK,
        "inference_allowed_mirroring_axes": axes,
    }
    buffer = io.BytesIO()  # and not a file, whose name torch would write into the zip that a checkpoint is
    torch.save(fields, buffer)
    return buffer.getvalue()
