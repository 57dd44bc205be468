"""Whether code in models from elsewhere may run: never, unless the user lifts that for one run.

Kept in the environment, because a training starts other processes that must know it too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from nnunetv2_stitch.environment import environment_set

VARIABLE = "nnUNet_stitch_trust"
MEANING = ("--trust: whatever code these models hold or name will run with your rights on this machine; use it only "
           "for files whose sender you would let work at your keyboard")


def is_trusting() -> bool:
    return os.environ.get(VARIABLE) == "1"


@contextmanager
def trusting(yes: bool) -> Iterator[None]:
    """Within the context checkpoints are read as stock nnU-Net reads them, and plans may name any class."""
    if not yes:
        yield
        return
    with environment_set({VARIABLE: "1"}):
        yield
