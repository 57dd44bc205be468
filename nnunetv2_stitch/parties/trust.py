"""Whether code in models from elsewhere may run: never, unless the user lifts that for one run.

Held by the run itself and not by the environment, from which a later command, or one of another user's scripts, would
inherit it unseen. Processes that a run starts are told by their arguments.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

MEANING = ("--trust: whatever code these models hold or name will run with your rights on this machine; use it only "
           "for files whose sender you would let work at your keyboard")

_trusts: ContextVar[bool] = ContextVar("trusts", default=False)


def is_trusting() -> bool:
    return _trusts.get()


@contextmanager
def trusting(yes: bool, aloud: bool = True) -> Iterator[None]:
    """Within the context checkpoints are read as stock nnU-Net reads them, and plans may name any class; which is said
    on stderr.

    Args:
        aloud: false in the further processes of a run, whose first one has said it.
    """
    if not yes or is_trusting():
        yield
        return
    if aloud:
        print(MEANING, file=sys.stderr, flush=True)
    before = _trusts.set(True)
    try:
        yield
    finally:
        _trusts.reset(before)
