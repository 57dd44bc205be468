"""What the process may use, and environment variables for a while: nnU-Net reads its folders, and where trainers are,
whenever it uses them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from nnunetv2_stitch.registration import trainers_folder


def usable_cores() -> int:
    """Cores this process may run on, which in a container or a batch job are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> int | None:
    """Bytes of main memory that the process may still take: of the machine, or of its container or batch job where
    that has less. None where the system does not tell (it does on Linux)."""
    found = []
    with suppress(OSError, ValueError, KeyError):
        found.append(1024 * _numbers("/proc/meminfo", ":")["MemAvailable"])
    with suppress(OSError, ValueError):
        with open("/proc/self/cgroup") as f:
            groups = [line.strip().split(":", 2)[1:] for line in f]
        for controllers, path in groups:
            if controllers == "":  # version 2
                found += _left_of_group("/sys/fs/cgroup", path, "memory.max", "memory.current", "inactive_file")
            elif "memory" in controllers.split(","):
                found += _left_of_group("/sys/fs/cgroup/memory", path, "memory.limit_in_bytes",
                                        "memory.usage_in_bytes", "total_inactive_file")
    return max(0, min(found)) if found else None


def _left_of_group(root: str, path: str, limit: str, used: str, cache: str) -> list[int]:
    """What a group of processes and those around it may still take; files that are cached will make room."""
    found = []
    folder = root + path.rstrip("/")
    while folder.startswith(root):
        with suppress(OSError, ValueError, KeyError):  # no limit reads "max"; inside containers paths may not be there
            with open(f"{folder}/{limit}") as f, open(f"{folder}/{used}") as g:
                found.append(int(f.read()) - int(g.read()) + _numbers(f"{folder}/memory.stat", " ")[cache])
        folder = os.path.dirname(folder)
    return found


def _numbers(path: str, between: str) -> dict[str, int]:
    """Lines of a name and a number."""
    with open(path) as f:
        parts = (line.partition(between) for line in f)
        return {name: int(value.split()[0]) for name, _, value in parts if value.split()}


@contextmanager
def environment_set(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables within the context."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def our_trainers_known() -> Iterator[None]:
    """nnU-Net finds our trainer classes within the context, beside those that the user made known."""
    folders = [f for f in os.environ.get("nnUNet_extTrainer", "").split(os.pathsep) if f]
    ours = str(trainers_folder())
    with environment_set({"nnUNet_extTrainer": os.pathsep.join(folders if ours in folders else [*folders, ours])}):
        yield
