"""Processes that live as long as a `with` block and no longer, and whose end before that is an error."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

from nnunetv2_stitch.baselines.federated.job import PARENT_VARIABLE
from nnunetv2_stitch.errors import StitchError

POLL_SECONDS = 0.2
COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # Flower writes them into files too
CHILD = "nnunetv2_stitch.baselines.federated.child"


class Processes:
    """Starts processes, notices when one ends, and kills all of them, with what they started, at the end.

    Each is the leader of its own process group: Ctrl-C in a terminal reaches only the process that started them, and
    a group can be killed as a whole. Output goes to `logs`/NAME.log.
    """

    def __init__(self, logs: str, cwd: str):
        self.logs, self.cwd = logs, cwd
        self.running: dict[str, subprocess.Popen] = {}
        os.makedirs(logs, exist_ok=True)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for process in self.running.values():
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for process in self.running.values():
            process.wait()

    def log(self, name: str) -> str:
        return os.path.join(self.logs, f"{name}.log")

    def start(self, name: str, command: Sequence[str], env: Mapping[str, str]) -> None:
        """Start `command` of the module `child`."""
        with open(self.log(name), "ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", CHILD, *command], stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, env={**env, PARENT_VARIABLE: str(os.getpid())}, cwd=self.cwd,
                start_new_session=True)

    def check(self) -> None:
        """Raises StitchError, with the last line of its log, if a process has ended."""
        for name in self.ended():
            raise self.lost(name)

    def ended(self) -> list[str]:
        """The names of those that have ended."""
        return [name for name, process in self.running.items() if process.poll() is not None]

    def lost(self, name: str) -> StitchError:
        """The error to raise about a process that has ended."""
        return self.failure(f"process {name} ended ({self.ending(name)})", name)

    def ending(self, name: str) -> str:
        """How a process ended."""
        return _ending(self.running[name].returncode)

    def wait_for(self, ready: Callable[[], bool], what: str, name: str, seconds: float | None = None) -> None:
        """Wait until `ready()`.

        Raises:
            StitchError: a process ended before that, or `what` took longer than `seconds`.
        """
        start = time.monotonic()
        while not ready():
            self.check()
            if seconds is not None and time.monotonic() - start > seconds:
                raise self.failure(f"{what} took more than {seconds:.0f} s", name)
            time.sleep(POLL_SECONDS)

    def call(self, name: str, command: Sequence[str], env: Mapping[str, str], seconds: float) -> None:
        """Start a command and wait for its end.

        Raises:
            StitchError: it failed or took longer than `seconds`.
        """
        self.start(name, command, env)
        process = self.running.pop(name)
        try:
            self.wait_for(lambda: process.poll() is not None, f"process {name}", name, seconds)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if process.returncode:
            raise self.failure(f"process {name} failed ({_ending(process.returncode)})", name)

    def failure(self, what: str, name: str) -> StitchError:
        """The error to raise about `what`, with the last line of the log of process `name`."""
        return stopped(f"{what}: {_last_line(self.log(name))}", self.log(name))


def stopped(what: str, log: str) -> StitchError:
    """The one line about a training that did not come to its end."""
    return StitchError(f"federated training stopped: {what}; see {log}; resume=True goes on after the last finished "
                       f"round")


def _ending(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _last_line(path: str) -> str:
    try:
        with open(path, errors="replace") as f:
            lines = [line for line in (COLOURS.sub("", text).strip() for text in f) if line]
    except OSError:
        lines = []
    return lines[-1][:300] if lines else "it wrote nothing"
