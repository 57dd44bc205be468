"""One step on one fold, training or validation, and the processes that take it together."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass

import torch
import torch.multiprocessing as mp
from nnunetv2.run.run_training import find_free_network_port, maybe_load_checkpoint

from nnunetv2_stitch.devices import set_up_device, trainer_for
from nnunetv2_stitch.distributed import (
    barrier,
    broadcast,
    leave_at_once,
    process_from_environment,
    process_group,
    rank_and_world_size,
)
from nnunetv2_stitch.environment import our_trainers_known
from nnunetv2_stitch.errors import LostProcess, StitchError
from nnunetv2_stitch.parties.read_cache import reading_once
from nnunetv2_stitch.parties.trust import is_trusting, trusting

UNEXPECTED, BAD_INPUT = 1, 2  # exit codes of the commands


@dataclass(frozen=True)
class FoldRun:
    """What the trainer of one fold is to do; all that another process needs to know of it. `deploy`: at the end of the
    training, as under stock nnUNetv2_train; otherwise whoever runs it chooses and deploys."""

    dataset: str
    configuration: str
    fold: int | str
    trainer: str
    plans_name: str
    validate: bool = False
    continue_training: bool = False
    save_probabilities: bool = False
    progress: bool = True
    deploy: bool = True

    def carry_out(self, device: torch.device) -> None:
        trainer = trainer_for(self.dataset, self.configuration, self.fold, self.trainer, self.plans_name,
                              self.continue_training, device)
        trainer.disable_progress_bar = not self.progress
        trainer.session.deploys = self.deploy
        maybe_load_checkpoint(trainer, self.continue_training, self.validate)
        if self.validate:
            trainer.perform_actual_validation(self.save_probabilities)
        else:
            trainer.run_training()


@dataclass(frozen=True)
class Leave:
    """The last thing that the first process tells the others: with which code to exit."""

    code: int


def require_processes(batch_size: int, device: torch.device, num_gpus: int) -> None:
    """Raises StitchError where the batch or the machine is too small for the processes asked for."""
    size = rank_and_world_size()[1]
    if num_gpus > 1 and size > 1:
        raise StitchError("torchrun has started the processes; leave out -num_gpus")
    if num_gpus > 1 and (device.type != "cuda" or torch.cuda.device_count() < num_gpus):
        raise StitchError(f"-num_gpus {num_gpus}: there are {torch.cuda.device_count()} CUDA GPUs here, and the device "
                          f"is {device.type}; for processes on the CPU start the command with torchrun")
    if batch_size < max(size, num_gpus):
        raise StitchError(f"a batch of {batch_size} cannot be shared out over {max(size, num_gpus)} processes; start "
                          f"at most {batch_size}")


def carry_out(step: FoldRun, device: torch.device, num_gpus: int = 1) -> None:
    """Take a step here, in all processes of the group, or in `num_gpus` processes started for it."""
    if num_gpus > 1:
        _spawn(step, device, num_gpus)
        return
    try:
        broadcast(step)
        step.carry_out(device)
    except BaseException as error:
        error.in_step = True  # the others are in it as well, and hear of nothing but a closed connection
        raise


@contextmanager
def leading() -> Iterator[None]:
    """The first process of a group decides within the context; whatever ends it also ends the others, who `follow`."""
    try:
        yield
    except Exception as error:
        if not getattr(error, "in_step", False) and not isinstance(error, LostProcess):
            broadcast(Leave(BAD_INPUT if isinstance(error, StitchError) else UNEXPECTED))
            barrier()
        raise
    broadcast(Leave(0))


@our_trainers_known()
def follow(device: torch.device) -> None:
    """Take every step that the first process of the group takes. Raises SystemExit when that fails."""
    while not isinstance(step := broadcast(), Leave):
        step.carry_out(device)
    if step.code:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's, when the first one has left a moment earlier
        barrier()
        sys.exit(step.code)


def _spawn(step: FoldRun, device: torch.device, count: int, method: str = "spawn") -> None:
    try:
        mp.start_processes(_spawned, (step, device, count, find_free_network_port(), is_trusting()), count,
                           start_method=method)
    except mp.ProcessExitedException as error:
        raise LostProcess(str(error)) from error
    except mp.ProcessRaisedException as error:
        kind, _, said = str(error).strip().splitlines()[-1].partition(": ")
        for known in (StitchError, LostProcess):
            if kind.endswith(known.__name__):
                raise known(said) from error
        raise RuntimeError(f"{kind}: {said}") from error


def _spawned(rank: int, step: FoldRun, device: torch.device, count: int, port: int, trusts: bool) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), LOCAL_WORLD_SIZE=str(count),
                      MASTER_ADDR="localhost", MASTER_PORT=str(port))
    set_up_device(device, threads=1)
    with silent_unless(rank == 0), trusting(trusts, aloud=False), reading_once(), \
            process_group(process_from_environment(), device):
        step.carry_out(device)
    leave_at_once()


@contextmanager
def silent_unless(speaks: bool) -> Iterator[None]:
    """nnU-Net prints in every process; one of them is enough."""
    if speaks:
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield
