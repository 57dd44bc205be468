"""What a training in rounds leaves beside its checkpoint, and whether it is there."""

from __future__ import annotations

import os
import shutil
from typing import Any

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import atomically, read_json, write_json
from nnunetv2_stitch.locks import plans_locked

FINAL, CURVE_FILE = "checkpoint_final.pth", "progress.png"


def finished(fold_folder: str, settings: dict[str, Any], record_file: str) -> bool:
    """Whether the training is. Raises StitchError if what is there was made with other settings."""
    path = os.path.join(fold_folder, record_file)
    if not (os.path.isfile(path) and os.path.isfile(os.path.join(fold_folder, FINAL))):
        return False
    require_same(read_json(path).get("settings", {}), settings, path)
    return True


def require_same(found: dict[str, Any], settings: dict[str, Any], path: str) -> None:
    """Raises StitchError if `found`, in the file `path`, are not the settings of this training."""
    changed = [key for key, value in settings.items() if found.get(key) != value]
    if changed:
        raise StitchError(f"{path} was made with other {changed[0]}: {found.get(changed[0])}, not "
                          f"{settings[changed[0]]}; use the same, or another folder")


def write_files_beside(dataset: str, plans: dict, output_folder: str) -> None:
    """plans.json, and dataset.json and dataset_fingerprint.json of the host's preprocessed dataset."""
    path = os.path.join(output_folder, "plans.json")
    with plans_locked(path):
        write_json(path, plans)
    for name in ("dataset.json", "dataset_fingerprint.json"):
        atomically(os.path.join(output_folder, name),
                   lambda temporary, name=name: shutil.copyfile(os.path.join(dataset, name), temporary))
