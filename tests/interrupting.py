"""Ctrl-C in the middle of a training that runs in this process."""

import _thread
import contextlib
import signal
import threading
import time
from pathlib import Path


@contextlib.contextmanager
def interrupt_at(text: str, folder: Path):
    """Ctrl-C as soon as a training log below `folder` says `text`."""
    def watch():
        deadline = time.time() + 120
        while time.time() < deadline:
            if any(text in p.read_text() for p in folder.glob("**/training_log_*.txt")):
                return _thread.interrupt_main()
            time.sleep(0.002)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
    threading.Thread(target=watch, daemon=True).start()
    yield
    signal.signal(signal.SIGINT, before)
