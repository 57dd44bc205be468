"""Several processes that do one job together: which of them this is, and what they tell one another.

They are started by torchrun, or by anything else that sets RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT.
Outside of such a group every function does what one process alone needs.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from nnunetv2_stitch.errors import LostProcess, StitchError

if TYPE_CHECKING:
    import torch

# Others wait while the first one deploys, or for a case of many tiles. A lost process shows by its closed connection.
PATIENCE = timedelta(days=2)
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Process:
    """This process among those of the job; `local_rank` and `local_world_size` count on its own machine."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int

    @property
    def is_first(self) -> bool:
        return self.rank == 0


SINGLE_PROCESS = Process(0, 1, 0, 1)


def process_from_environment() -> Process:
    """This process as torchrun's variables describe it; `SINGLE_PROCESS` where there are no others.

    Raises:
        StitchError: the variables make no sense.
    """
    if any(v not in os.environ for v in VARIABLES):
        return SINGLE_PROCESS
    try:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        local_rank = int(os.environ.get("LOCAL_RANK", rank))
        local_size = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    except ValueError:
        raise StitchError("RANK, WORLD_SIZE and LOCAL_RANK must be whole numbers; torchrun sets them") from None
    if not 0 <= rank < max(size, 1):
        raise StitchError(f"RANK {rank} is not from 0 to {size - 1}, below WORLD_SIZE; torchrun sets both")
    return Process(rank, size, local_rank, local_size) if size > 1 else SINGLE_PROCESS


@contextmanager
def process_group(process: Process, device: torch.device) -> Iterator[None]:
    """The process group of all: NCCL between GPUs, gloo for everything else."""
    import torch
    from torch import distributed as dist
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    with noticing_losses():
        dist.init_process_group(backend, rank=process.rank, world_size=process.world_size, timeout=PATIENCE)
        lacking = all_gather(device.type == "cuda" and process.local_rank >= torch.cuda.device_count())
        if any(lacking):
            raise StitchError(f"process {lacking.index(True)} has no GPU of its own; start one process per GPU "
                              f"(torchrun --nproc_per_node), or all on the CPU with -device cpu")
        if device.type == "cuda":
            torch.cuda.set_device(process.local_rank)
        yield
    dist.destroy_process_group()


@contextmanager
def noticing_losses() -> Iterator[None]:
    """Raises LostProcess where a message could not be exchanged because another process is gone."""
    from torch import distributed as dist
    try:
        yield
    except RuntimeError as error:  # gloo's errors have no class of their own
        if isinstance(error, dist.DistError) or "gloo" in str(error).lower() or "TCPStore" in str(error):
            raise LostProcess(str(error)) from error
        raise


def in_group() -> bool:
    from torch import distributed as dist
    return dist.is_available() and dist.is_initialized()


def rank_and_world_size() -> tuple[int, int]:
    from torch import distributed as dist
    return (dist.get_rank(), dist.get_world_size()) if in_group() else (0, 1)


def local_device(device: torch.device) -> torch.device:
    """This process' own GPU where the device is CUDA. nnU-Net counts GPUs over all machines."""
    import torch
    if device.type != "cuda":
        return device
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", rank_and_world_size()[0])))


def broadcast(value: Any = None) -> Any:
    """The value of the first process, in all of them."""
    from torch import distributed as dist
    if not in_group():
        return value
    box = [value]
    dist.broadcast_object_list(box, 0)
    return box[0]


def all_gather(value: Any) -> list:
    """The values of all processes, in order of their ranks."""
    from torch import distributed as dist
    if not in_group():
        return [value]
    values: list = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def all_reduce(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over all processes of a tensor on the CPU."""
    from torch import distributed as dist
    if not in_group():
        return tensor
    summed = tensor.clone() if _speaks_gloo() else tensor.cuda()
    dist.all_reduce(summed)
    return summed.cpu()


def _speaks_gloo() -> bool:
    from torch import distributed as dist
    return "gloo" in dist.get_backend_config()


def barrier() -> None:
    """Return when all processes have called it."""
    from torch import distributed as dist
    if in_group():
        dist.barrier()


def leave_at_once(code: int = 0) -> NoReturn:
    """End this process, which was in a group, without the end of the interpreter: there torch waits for processes that
    are lost, and a thread of gloo that still holds a tensor aborts even a process that has done all (torch's pull
    request 179291). Where all is done, what was registered to run at exit is run."""
    if code == 0:
        atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
