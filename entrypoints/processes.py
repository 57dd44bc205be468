"""A command as one of several processes, which torchrun or the like starts: only the first one speaks."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from nnunetv2_stitch.distributed import SINGLE_PROCESS, Process, leave_at_once, process_from_environment
from nnunetv2_stitch.entrypoints.common import run
from nnunetv2_stitch.errors import LostProcess


@contextmanager
def one_of_several() -> Iterator[Process]:
    """This process. Within the context nothing but the first process prints to stdout, and SIGTERM, with which
    launchers end the others when one is lost, raises LostProcess. One of several processes ends with the context."""
    found: list[Process] = []
    run(lambda: found.append(process_from_environment()), several=True)
    process, = found
    if process == SINGLE_PROCESS:
        yield process
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else torch prints a C++ stack for each lost connection
    signal.signal(signal.SIGTERM, _terminated)
    speaker = sys.stdout
    if not process.is_first:
        sys.stdout = open(os.devnull, "w")
    code = 0
    try:
        yield process
    except SystemExit as left:
        code = left.code or 0
    finally:
        sys.stdout = speaker
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if code:
        for worker in multiprocessing.active_children():
            worker.terminate()
    leave_at_once(code)


@contextmanager
def only_first_speaks(process: Process) -> Iterator[None]:
    """For errors that all processes find alike, such as those of arguments."""
    speaker = sys.stderr
    if not process.is_first:
        sys.stderr = open(os.devnull, "w")
    try:
        yield
    finally:
        sys.stderr = speaker


def _terminated(*_) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise LostProcess("ended from outside")
