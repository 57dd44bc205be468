"""Locks between commands, also on machines that share a file system.

Record locks: the system drops them when their process ends, however it ends, and worker processes do not inherit them.
Within one process they hold nobody back. Where a file system has no locks, or on Windows, there are none.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack

from nnunetv2_stitch.errors import StitchError

try:
    import fcntl
except ImportError:
    fcntl = None

WAIT = 0.2  # seconds


class Lock:
    """A lock that is held until `release`, which removes its file."""

    def __init__(self, path: str, handle: int):
        self.path, self._handle = path, handle

    def release(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.remove(self.path)
        os.close(self._handle)


def try_lock(path: str) -> Lock | None:
    """Take the lock of this name; None if another process has it.

    Raises:
        StitchError: the folder cannot be written to.
    """
    while True:
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError as error:
            raise StitchError(f"no permission to write into {os.path.dirname(path)}; change its permissions") from error
        try:
            if fcntl is not None:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # the two ways in which systems say: taken
            os.close(handle)
            return None
        except OSError:  # no locks on this file system
            pass
        if _is_open(path, handle):
            return Lock(path, handle)
        os.close(handle)  # its holder removed it between opening and locking


def _is_open(path: str, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def locked(path: str, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock within the context, as soon as it is free; `waiting` is called once if it is not."""
    lock = try_lock(path)
    if lock is None:
        waiting()
    while lock is None:
        time.sleep(WAIT)
        lock = try_lock(path)
    try:
        yield
    finally:
        lock.release()


def plans_locked(plans_file: str, waiting: Callable[[], None] = lambda: None) -> AbstractContextManager[None]:
    """Alone with a plans file within the context. Whoever writes plans that others may write too reads, changes and
    writes them here, so that nothing of the others is lost."""
    return locked(f"{plans_file}.lock", waiting)


class FoldLocks:
    """The folds of a model folder that this command alone may write, from `take` to the end of the context."""

    def __init__(self, model_folder: str):
        self._folder, self._held = model_folder, ExitStack()

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        self._held.close()

    def take(self, folds: Iterable[int | str]) -> None:
        """Raises StitchError if another command holds one of these folds."""
        for fold in folds:
            if not self._try(fold):
                raise StitchError(f"fold {fold} of {self._folder} is being written by another command; wait until that "
                                  f"has ended")

    def take_free(self, folds: Iterable[int | str]) -> list[int | str]:
        """Those of these folds that no other command holds; they are taken."""
        return [f for f in folds if self._try(f)]

    def _try(self, fold: int | str) -> bool:
        lock = try_lock(os.path.join(self._folder, f".fold_{fold}.lock"))
        if lock is None:
            return False
        self._held.callback(lock.release)
        return True
