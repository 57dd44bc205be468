"""Which device is used, and the process set up for it as nnU-Net's own training sets itself up."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from nnunetv2_stitch.environment import usable_cores
from nnunetv2_stitch.errors import StitchError

if TYPE_CHECKING:
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


AUTO = "auto"


def find_device(device: str | torch.device = AUTO, flag: str = "device",
                preferred: Sequence[str] = ("cuda", "mps")) -> torch.device:
    """A device that is there: the one that is named, or for `auto` the first of the `preferred` ones, else the CPU.

    Args:
        flag: how the user names a device, for the message.

    Raises:
        StitchError: a device that this machine, or this build of torch, lacks.
    """
    import torch
    there = {"cuda": (torch.cuda.is_available(), "sees no CUDA GPU"), "mps": (torch.backends.mps.is_available(),
                                                                              "has no MPS"), "cpu": (True, "")}
    if device == AUTO:
        return torch.device(next((kind for kind in preferred if there[kind][0]), "cpu"))
    advice = f"use {flag} cpu, or leave {flag} out"
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise StitchError(f"{flag} {device!r} is no device of torch; {advice}") from error
    if found.type in there and not there[found.type][0]:
        raise StitchError(f"{flag} {device}: torch {there[found.type][1]} here; {advice}")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise StitchError(f"{flag} {device}: torch sees {torch.cuda.device_count()} GPUs, counted from 0; {advice}")
    return found


def set_up_device(device: str | torch.device, processes: int = 1, threads: int | None = None) -> None:
    """What nnUNetv2_train does before it trains: all cores on the CPU, one thread beside a GPU, and cuDNN.

    Args:
        processes: that share this machine's cores.
        threads: on the CPU, instead of OMP_NUM_THREADS, or else of this process' share of the cores.
    """
    import torch
    kind = torch.device(device).type
    if kind == "cpu":
        asked = os.environ.get("OMP_NUM_THREADS", "") if processes == 1 else ""  # torchrun sets it for several
        threads = threads or (int(asked) if asked.isdigit() else 0) or max(1, usable_cores() // processes)
        torch.set_num_threads(threads)
    elif kind == "cuda":
        torch.set_num_threads(1)
        with contextlib.suppress(RuntimeError):  # it can only be set before the first work of that kind
            torch.set_num_interop_threads(1)
    set_up_cudnn()


def set_up_cudnn() -> None:
    """As nnU-Net's `run_training`, which is passed by where trainers are called directly: cuDNN tries its algorithms
    for each shape of input and keeps the fastest. Without a GPU it means nothing."""
    import torch
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, True


def trainer_for(dataset: str, configuration: str, fold: int | str, trainer: str, plans_name: str,
                continue_training: bool, device: torch.device):
    """nnU-Net's `get_trainer_from_args`, in a process set up to train.

    Args:
        dataset, configuration, fold, trainer, plans_name: names, as `nnUNetv2_train` takes them.
        continue_training: from the latest checkpoint.
    """
    from nnunetv2.run.run_training import get_trainer_from_args
    set_up_cudnn()
    return get_trainer_from_args(dataset, configuration, fold, trainer, plans_name, continue_training, device)


def trainer_class(name: str) -> type[nnUNetTrainer]:
    """The class that nnU-Net finds, which imports every trainer file anew to do so: kept until another folder is named
    in nnUNet_extTrainer, or files in one come or go.

    Raises:
        RuntimeError, AssertionError: there is none, or it is no trainer.
        Exception: of any type, from a trainer file that cannot be imported.
    """
    folders = os.environ.get("nnUNet_extTrainer", "").split(os.pathsep)
    return _trainer_class(name, tuple((f, os.stat(f).st_mtime_ns if os.path.isdir(f) else 0) for f in folders))


@cache
def _trainer_class(name: str, folders: tuple[tuple[str, int], ...]) -> type[nnUNetTrainer]:
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
    with contextlib.redirect_stdout(io.StringIO()):  # it says where it looks
        return recursive_find_trainer_class_by_name(name)


def set_budget(trainer, epochs: int | None, iterations: int | None) -> None:
    """Epochs and iterations per epoch instead of the trainer's own, with validation that is no longer than a fifth of
    an epoch, as nnU-Net's; None leaves them."""
    if epochs is not None:
        trainer.num_epochs = epochs
    if iterations is not None:
        trainer.num_iterations_per_epoch = iterations
        trainer.num_val_iterations_per_epoch = max(1, min(trainer.num_val_iterations_per_epoch, iterations // 5))


def half_precision(device: torch.device) -> contextlib.AbstractContextManager:
    """bfloat16 rather than nnU-Net's float16: its range needs no scaling of the loss, whose gradients are summed."""
    import torch
    bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.autocast("cuda", dtype=torch.bfloat16) if bf16 else contextlib.nullcontext()
