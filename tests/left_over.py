"""Which processes of given groups still run; for tests of what must not outlive its parent."""

import time
from pathlib import Path


def left_over(groups, seconds=5.0):
    """Process ids in these groups that are still there after a while; they may need a moment to die."""
    deadline = time.monotonic() + seconds
    while True:
        alive = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
            except OSError:
                continue
            if int(group) in groups and state != "Z":
                alive.append(int(stat.parent.name))
        if not alive or time.monotonic() > deadline:
            return alive
        time.sleep(0.1)
