"""What the process may use, and environment variables for a while: nnU-Net reads its folders, and where trainers are,
whenever it uses them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from nnunetv2_stitch.registration import trainers_folder


def usable_cores() -> int:
    """Cores this process may run on, which in a container or a batch job are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
