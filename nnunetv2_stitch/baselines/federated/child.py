"""Runs one of Flower's commands, or a party's trainer, in a process that never outlives the one that started it.

`python -m nnunetv2_stitch.baselines.federated.child flower-superlink --insecure ...`
`python -m nnunetv2_stitch.baselines.federated.child trainer JOB INDEX`
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from importlib.metadata import entry_points

from nnunetv2_stitch.baselines.federated.job import PARENT_VARIABLE
from nnunetv2_stitch.errors import StitchError

CHECK_SECONDS = 0.5


def end_with_parent() -> None:
    """Kill this process's group as soon as its parent is gone, also where that was killed. The launcher makes every
    child the leader of a group, so this takes along what the child itself started."""
    def watch() -> None:
        while os.getppid() == int(os.environ[PARENT_VARIABLE]):
            time.sleep(CHECK_SECONDS)
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def main(arguments: list[str]) -> None:
    end_with_parent()
    name, *rest = arguments
    if name == "trainer":
        from nnunetv2_stitch.baselines.federated.trainer import main as trainer_main
        try:
            trainer_main(rest[0], int(rest[1]))
        except Exception as error:
            # The launcher shows the last line of the log.
            traceback.print_exc()
            kind = "" if isinstance(error, StitchError) else f"{type(error).__name__}: "
            print(f"ERROR: {kind}{' '.join(str(error).split())}", flush=True)
            os._exit(1)  # whatever augmentation workers still do
    sys.argv = [name, *rest]
    command = next(iter(entry_points(group="console_scripts", name=name)))
    sys.exit(command.load()())


if __name__ == "__main__":
    main(sys.argv[1:])
