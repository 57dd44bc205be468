"""Ctrl-C: the command alone hears it, ends its workers and then itself; a second one ends all of them at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any, NoReturn

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells count
TOGETHER = 1.0  # seconds; torchrun and the like pass on what the terminal has sent to their processes already


@contextmanager
def hearing_interrupts(message: str = "") -> Iterator[None]:
    """Within, SIGINT raises KeyboardInterrupt once, and the next one a second later prints `message`, unless it
    is empty, and ends the process with its workers: whoever asks twice does not want to wait for anything. After the
    first one this stays so.

    However the process was started: shells without job control, such as those that run scripts, let what they start
    with `&` ignore SIGINT, and its own processes inherit that. A handler of somebody else is left as it is.
    """
    before = signal.getsignal(signal.SIGINT)
    ours = threading.current_thread() is threading.main_thread() and \
        before in (signal.SIG_IGN, signal.default_int_handler)
    heard: list[float] = []

    def first(*_: Any) -> NoReturn:
        heard.append(time.monotonic())
        signal.signal(signal.SIGINT, second)
        raise KeyboardInterrupt

    def second(*_: Any) -> None:
        if time.monotonic() - heard[0] < TOGETHER:
            return
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for worker in multiprocessing.active_children():
            worker.kill()
        if message:  # written, not printed: what is interrupted may be a print
            os.write(2, f"{message}\n".encode())
        os._exit(EXIT_INTERRUPTED)

    if ours:
        signal.signal(signal.SIGINT, first)
    try:
        with _workers_do_not_hear():
            yield
    finally:
        if ours and not heard:
            signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def _workers_do_not_hear() -> Iterator[None]:
    """Daemons, such as the workers of pools, are ended by the process that started them, with SIGTERM, and by nothing
    else. A terminal sends SIGINT to them too, and workers of a pool that die of it may leave its locks taken and the
    pool waiting for ever. A blocked signal stays blocked in what is started, forked or spawned. Forked ones must not
    take over a handler of SIGTERM either: Python forgets signals while it forks, and a worker that waits for a lock
    never gets to its handler; it would not end, and its pool would wait for ever. Windows has no such signals."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    original = BaseProcess.start

    def start(self: BaseProcess) -> None:
        if not self.daemon:
            return original(self)
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            with _as_by_default(signal.SIGTERM):
                return original(self)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    BaseProcess.start = start
    try:
        yield
    finally:
        BaseProcess.start = original


@contextmanager
def _as_by_default(number: int) -> Iterator[None]:
    """Without a handler of ours. Only the main thread may change handlers; others leave it as it is."""
    handler = signal.getsignal(number)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(number, handler)
