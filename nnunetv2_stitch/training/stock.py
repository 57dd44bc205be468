"""One fold in nnU-Net's own loop, by any trainer class: from scratch, from a checkpoint, or gone on with."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Callable

import torch
from nnunetv2.run.run_training import maybe_load_checkpoint
from nnunetv2.utilities.file_path_utilities import get_output_folder

from nnunetv2_stitch.devices import set_budget, trainer_class, trainer_for
from nnunetv2_stitch.environment import environment_set
from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.nnunet_internals import uncompiled
from nnunetv2_stitch.parties.checkpoint import load_checkpoint, load_weights, network_weights
from nnunetv2_stitch.parties.model_folder import FINAL
from nnunetv2_stitch.randomness import seed_everything


def train_network(dataset: str, configuration: str, fold: int | str, trainer: str, plans_name: str,
                  device: torch.device, start: str | None = None, epochs: int | None = None,
                  iterations: int | None = None, seed: int = 12345):
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
        The trainer after its last epoch; None where the fold was trained before.

    Raises:
        StitchError: the weights do not fit the network.
    """
    kept = usable_checkpoints(get_output_folder(dataset, trainer, plans_name, configuration, fold))
    if FINAL in kept:
        return None
    seed_everything(seed)
    running = trainer_for(dataset, configuration, fold, trainer, plans_name, bool(kept), device)
    set_budget(running, epochs, iterations)
    running.initialize()
    if kept:
        maybe_load_checkpoint(running, True, False)
    elif start is not None:
        load_weights(uncompiled(running.network), network_weights(load_checkpoint(start)), start)
    running.run_training()
    return running


def validate_network(dataset: str, configuration: str, fold: int | str, trainer: str, plans_name: str,
                     device: torch.device, running=None, say: Callable[[str], None] = lambda line: None) -> float:
    """nnU-Net's own validation of a finished training, and its foreground mean of Dice; only read where it was done
    before.

    Args:
        dataset, configuration, fold, trainer, plans_name: as nnUNetv2_train takes them.
        running: the trainer that has just trained; None for one that reads the final checkpoint.
        say: receives a line where there is work to do.
    """
    folder = get_output_folder(dataset, trainer, plans_name, configuration, fold)
    summary = os.path.join(folder, "validation", "summary.json")
    if not os.path.isfile(summary):
        say(f"fold {fold}: validation with nnU-Net's sliding window")
        if running is None:
            running = trainer_for(dataset, configuration, fold, trainer, plans_name, False, device)
            maybe_load_checkpoint(running, False, True)
        running.perform_actual_validation(False)
    return read_json(summary)["foreground_mean"]["Dice"]


def is_installed(trainer: str) -> bool:
    """Whether nnU-Net finds a trainer class of this name here."""
    try:
        trainer_class(trainer)
    except (RuntimeError, AssertionError):
        return False
    return True


def budget(trainer: str, plans: dict, configuration: str, dataset_json: dict) -> tuple[int, int]:
    """Epochs and iterations per epoch of a trainer class, so that another way of training can be given the same."""
    # A trainer makes its folder and log as soon as it is made, so not in the user's results.
    with tempfile.TemporaryDirectory() as folder, environment_set({"nnUNet_results": folder}):
        made = trainer_class(trainer)({**plans, "continue_training": False}, configuration, 0, dataset_json,
                                      torch.device("cpu"))
    return made.num_epochs, made.num_iterations_per_epoch


def usable_checkpoints(folder: str) -> list[str]:
    """Names of the whole checkpoints in a fold's folder. A kill while nnU-Net wrote one leaves a file without its end,
    on which its continuation would fail: such files are removed."""
    kept = []
    for name in (FINAL, "checkpoint_latest.pth", "checkpoint_best.pth"):
        path = os.path.join(folder, name)
        if not os.path.isfile(path):
            continue
        with open(path, "rb") as file:
            whole = zipfile.is_zipfile(file)
        if whole:
            kept.append(name)
        else:
            os.remove(path)
    return kept
