"""The server's side of the launcher's connection, and its parties."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from flwr.serverapp import Grid

from nnunetv2_stitch.baselines.federated import wire
from nnunetv2_stitch.baselines.federated.job import Job

CONNECT_SECONDS = 120


@contextmanager
def launcher_told(job: Job) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Tell the launcher of the start, of an error and of the end; gives what tells it of each round."""
    with wire.connect(job.launcher, job.key) as launcher:
        wire.send(launcher, {"started": True})
        try:
            yield lambda entry: wire.send(launcher, entry)
        except Exception as error:
            with open(job.server_log, "a") as log:
                traceback.print_exc(file=log)
            wire.send(launcher, {"error": " ".join(str(error).split()) or type(error).__name__})
            raise
        wire.send(launcher, {"done": True})


def all_nodes(grid: Grid, count: int) -> list[int]:
    """Wait until `count` parties are connected.

    Raises:
        RuntimeError: fewer have connected in time, or more, so that somebody else is among them.
    """
    deadline = time.monotonic() + CONNECT_SECONDS
    while len(nodes := list(grid.get_node_ids())) < count:
        if time.monotonic() > deadline:
            raise RuntimeError(f"only {len(nodes)} of {count} parties connected within {CONNECT_SECONDS} s")
        time.sleep(0.2)
    if len(nodes) > count:
        raise RuntimeError("somebody else connected to Flower's server; nothing was sent")
    return nodes
