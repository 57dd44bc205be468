"""nnU-Net prints a lot: its words go to a log file, and of the epochs a line is passed on as progress."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TextIO

from nnunetv2_stitch.errors import StitchError

EPOCH_STARTS = re.compile(r"\bEpoch (\d+)\s*$", re.MULTILINE)


class _Log:
    """A text stream into the log that reports each line's epoch."""

    encoding = "utf-8"

    def __init__(self, file: TextIO, on_epoch: Callable[[int], None] | None):
        self.file, self.on_epoch = file, on_epoch

    def write(self, text: str) -> int:
        self.file.write(text)
        if self.on_epoch is not None:
            for match in EPOCH_STARTS.finditer(text):
                self.on_epoch(int(match[1]))
        return len(text)

    def flush(self) -> None:
        self.file.flush()

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self.file.fileno()


@contextmanager
def captured(log_path: str, on_epoch: Callable[[int], None] | None = None) -> Iterator[Callable[[str], None]]:
    """Append what is printed within the context to `log_path`; yields a function that prints to the terminal anyway.

    Args:
        log_path: the log.
        on_epoch: called with the number of each epoch that nnU-Net starts; what it prints goes to the terminal.

    Raises:
        StitchError: anything that goes wrong within, in a line that names the log. A StitchError and an interruption
            pass through.
    """
    out, err = sys.stdout, sys.stderr

    def outside(function: Callable, *args) -> None:
        with redirect_stdout(out), redirect_stderr(err):
            function(*args)

    with open(log_path, "a", buffering=1, encoding="utf-8") as file:
        stream = _Log(file, None if on_epoch is None else lambda epoch: outside(on_epoch, epoch))
        try:
            with redirect_stdout(stream), redirect_stderr(stream):
                yield lambda text: outside(print, text)
        except StitchError:
            raise
        except Exception as error:
            import traceback
            traceback.print_exc(file=file)
            raise StitchError(f"{type(error).__name__}: {error}; nnU-Net's output is in {log_path}") from error
