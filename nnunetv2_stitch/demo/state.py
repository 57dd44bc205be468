"""What a demo's folder says of itself: how it was begun, and which steps are done."""

from __future__ import annotations

import os
from dataclasses import replace

from nnunetv2_stitch.demo.settings import DEMO, DemoSettings
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.folders import names_in

STATE_FILE = "demo_state.json"
STORY = 2  # of folders; 1 trained its parents and stitched them, and cannot be gone on with


def check_folder(folder: str, resume: bool = False, seed: int | None = None, settings: DemoSettings | None = None,
                 from_scratch: bool = False) -> dict:
    """Return the demo's state in `folder`, fresh or as it was left; writes nothing.

    Args:
        folder: of the demo; need not exist.
        resume: it may hold a demo, which is gone on with.
        seed, settings, from_scratch: as `run_demo` takes them. What is given must be what the folder's demo was begun
            with.

    Raises:
        StitchError: the folder is in use, or holds a demo of other settings.
    """
    path = os.path.join(folder, STATE_FILE)
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise StitchError(f"{folder} is a file; choose another folder with -o")
    if os.path.isdir(folder) and names_in(folder):
        if not resume:
            raise StitchError(f"{folder} is not empty; add --c to go on with the demo in it, or choose another -o")
        state = read_json(path) if os.path.isfile(path) else None
        if not isinstance(state, dict) or not {"settings", "done"} <= set(state):
            raise StitchError(f"{folder} holds no demo to go on with; choose another -o")
        if state.get("story") != STORY:
            raise StitchError(f"the demo in {folder} was begun by another version; choose another -o")
        before = DemoSettings.from_json(state["settings"])
        wanted = settings or before
        if (wanted if seed is None else replace(wanted, seed=seed)) != before or from_scratch > state["from_scratch"]:
            raise StitchError(f"the demo in {folder} was started with other settings ({path}); --c goes on only with "
                              f"the same seed and settings; choose another -o")
        return state
    settings = settings or DEMO
    settings = settings if seed is None else replace(settings, seed=seed)
    return {"story": STORY, "from_scratch": from_scratch, "settings": settings.to_json(), "done": {}}
