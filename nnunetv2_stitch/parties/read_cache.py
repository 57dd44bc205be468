"""What a run reads of models is read once, however many of its steps ask for it. Nothing heavy is imported here.

Values are known by their file's identity, size and time of change, so that a file which was written anew is read anew.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

LIMIT = 2 << 30  # bytes kept in one run: 16 checkpoints of nnU-Net's usual size


class _Kept:
    """The values read last, of `LIMIT` bytes together at most."""

    def __init__(self) -> None:
        self.values: OrderedDict[tuple, tuple[Any, int]] = OrderedDict()

    def get(self, key: tuple, make: Callable[[], Any], size: Callable[[Any], int]) -> Any:
        if key in self.values:
            self.values.move_to_end(key)
            return self.values[key][0]
        value = make()
        self.values[key] = value, size(value)
        while sum(bytes_ for _, bytes_ in self.values.values()) > LIMIT:
            self.values.popitem(last=False)
        return value


_kept: ContextVar[_Kept | None] = ContextVar("kept", default=None)


@contextmanager
def reading_once() -> Iterator[None]:
    """Within the context `once` keeps what it has made, up to `LIMIT`; forgotten at the end of the outermost one."""
    if _kept.get() is not None:
        yield
        return
    before = _kept.set(_Kept())
    try:
        yield
    finally:
        _kept.reset(before)


def once(kind: tuple, path: str, make: Callable[[], Any], size: Callable[[Any], int] = lambda value: 0) -> Any:
    """`make()`, or what it gave when this run asked before; `kind` says what is made of the file, `size` its bytes. The
    value is shared and must not be changed."""
    kept = _kept.get()
    if kept is None:
        return make()
    try:
        about = os.stat(path)
    except OSError:  # which `make` words better
        return make()
    key = (*kind, os.path.abspath(path), about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns)
    return kept.get(key, make, size)
