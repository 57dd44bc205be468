"""The process set up for its device, as nnU-Net's own training sets itself up: for everything here that trains."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from nnunetv2_stitch.environment import usable_cores

if TYPE_CHECKING:
    import torch


def set_up_device(device: str | torch.device, processes: int = 1, threads: int | None = None) -> None:
    """What nnUNetv2_train does before it trains: all cores on the CPU, one thread beside a GPU, and cuDNN.

    Args:
        processes: that share this machine's cores.
        threads: on the CPU, instead of this process' share of the cores.
    """
    import torch
    kind = torch.device(device).type
    if kind == "cpu":
        torch.set_num_threads(threads or max(1, usable_cores() // processes))
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
    """nnU-Net's `get_trainer_from_args`, in a process set up to train."""
    from nnunetv2.run.run_training import get_trainer_from_args
    set_up_cudnn()
    return get_trainer_from_args(dataset, configuration, fold, trainer, plans_name, continue_training, device)
