"""Ordinary nnU-Net trainings that a comparison needs: from scratch, or on from a finished model."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile

import torch
from nnunetv2.paths import nnUNet_results
from nnunetv2.run.run_training import maybe_load_checkpoint

from nnunetv2_stitch.devices import trainer_for
from nnunetv2_stitch.environment import environment_set
from nnunetv2_stitch.nnunet_internals import uncompiled
from nnunetv2_stitch.parties.checkpoint import load_checkpoint, load_weights, network_weights
from nnunetv2_stitch.randomness import seed_everything


def train_network(dataset: str, configuration: str, fold: int | str, trainer: str, plans_name: str,
                  device: torch.device, start: str | None = None, epochs: int | None = None,
                  iterations: int | None = None, seed: int = 12345, progress: bool = True) -> str:
    """Train one fold with nnU-Net's own loop, trainer and schedule; goes on where an earlier call was interrupted.

    What is there under `plans_name` is taken for what is asked for: a name must say what is made from what, as that of
    a `Provenance` does.

    Args:
        dataset, configuration, fold, trainer, plans_name: as nnUNetv2_train takes them.
        start: checkpoint whose weights to begin with, heads included (nnU-Net's own `-pretrained_weights` drops
            them); None for nnU-Net's initialisation.
        epochs, iterations: instead of the trainer's own.
        seed: of Python, numpy and torch, set before the network is made.

    Returns:
        The fold's folder, with `checkpoint_final.pth`.

    Raises:
        StitchError: the weights do not fit the network.
    """
    folder = fold_folder(dataset, trainer, plans_name, configuration, fold)
    if os.path.isfile(os.path.join(folder, "checkpoint_final.pth")):
        return folder
    _forget_broken(folder)
    resumed = any(os.path.isfile(os.path.join(folder, f"checkpoint_{n}.pth")) for n in ("latest", "best"))
    seed_everything(seed)
    running = trainer_for(dataset, configuration, fold, trainer, plans_name, resumed, device)
    running.num_epochs = epochs or running.num_epochs
    if iterations:
        running.num_iterations_per_epoch = iterations
        running.num_val_iterations_per_epoch = max(1, min(running.num_val_iterations_per_epoch, iterations // 5))
    running.disable_progress_bar = not progress
    running.initialize()
    if resumed:
        maybe_load_checkpoint(running, True, False)
    elif start is not None:
        load_weights(uncompiled(running.network), network_weights(load_checkpoint(start)), start)
    running.run_training()
    return folder


def fold_folder(dataset: str, trainer: str, plans_name: str, configuration: str, fold: int | str) -> str:
    return os.path.join(str(nnUNet_results), dataset, f"{trainer}__{plans_name}__{configuration}", f"fold_{fold}")


def is_installed(trainer: str) -> bool:
    """Whether nnU-Net finds a trainer class of this name here."""
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it says where it looks
            recursive_find_trainer_class_by_name(trainer)
    except (RuntimeError, AssertionError):
        return False
    return True


def budget(trainer: str, plans: dict, configuration: str, dataset_json: dict) -> tuple[int, int]:
    """Epochs and iterations per epoch of a trainer class, so that another way of training can be given the same."""
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
    # A trainer makes its folder and log as soon as it is made, so not in the user's results.
    with tempfile.TemporaryDirectory() as folder, environment_set({"nnUNet_results": folder}):
        made = recursive_find_trainer_class_by_name(trainer)({**plans, "continue_training": False}, configuration, 0,
                                                             dataset_json, torch.device("cpu"))
    return made.num_epochs, made.num_iterations_per_epoch


def _forget_broken(folder: str) -> None:
    """A kill while nnU-Net wrote a checkpoint leaves a file on which its continuation would fail."""
    for name in ("checkpoint_latest.pth", "checkpoint_best.pth"):
        path = os.path.join(folder, name)
        try:
            if os.path.isfile(path):
                load_checkpoint(path)
        except Exception:
            os.remove(path)
