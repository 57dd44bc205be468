"""What is meant in a folder: nnU-Net's files and folds, and not what systems and people leave beside them."""

from __future__ import annotations

import math
import os
import re

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import read_json

LITTER = {"Thumbs.db", "desktop.ini", "Icon\r", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"}
FOLD = re.compile(r"fold_(all|0|[1-9][0-9]*)")
DATASET_FOLDER = re.compile(r"Dataset(\d{3})_(.+)")  # with an id, as nnU-Net takes it


def stock_id(dataset_name: str) -> str:
    """The dataset as nnU-Net's commands that plan and preprocess want it: its id, 801 of Dataset801_Name. They take no
    name. A name without an id is returned as it is."""
    found = DATASET_FOLDER.fullmatch(dataset_name)
    return str(int(found[1])) if found else dataset_name


def without_places(text: str) -> str:
    """With the names of nnU-Net's variables for their folders: for what travels or is shown elsewhere."""
    from nnunetv2 import paths
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        if (folder := getattr(paths, variable)).is_set():
            text = text.replace(str(folder), variable)
    return text


def names_in(folder: str) -> list[str]:
    """Names of files and folders, sorted, without hidden ones (`.DS_Store`, `._x`, `.nfs000`) and those of systems."""
    return sorted(n for n in os.listdir(folder) if not n.startswith(".") and n not in LITTER)


def files_in(folder: str, ending: str = "") -> list[str]:
    """Names of the files that end so, sorted."""
    return [n for n in names_in(folder) if n.endswith(ending) and os.path.isfile(os.path.join(folder, n))]


def folds_in(model_folder: str, file: str = "") -> list[int | str]:
    """Folds of a model folder (`fold_0`, `fold_all`; not `fold_0_old`), `all` last; with `file`: those that hold it."""
    found = [m[1] for n in names_in(model_folder) if (m := FOLD.fullmatch(n))
             and os.path.exists(os.path.join(model_folder, n, file))]
    return sorted(map(as_fold, found), key=lambda fold: math.inf if fold == "all" else fold)


def as_fold(name: int | str) -> int | str:
    """A fold as nnU-Net takes it: a number, or `all`."""
    return name if name == "all" else int(name)


def image_files(folder: str, ending: str) -> dict[str, list[str]]:
    """Case -> its files `CASE_0000<ending>`, `CASE_0001<ending>`, ... in their order, as nnU-Net groups them.

    A file may hold several channels (colour images, 4d volumes), so their number is not that of the files.
    """
    pattern = re.compile(r"(.+)_[0-9]{4}" + re.escape(ending))
    cases: dict[str, list[str]] = {}
    for name in files_in(folder, ending):
        if found := pattern.fullmatch(name):
            cases.setdefault(found[1], []).append(os.path.join(folder, name))
    return dict(sorted(cases.items()))


def require_plans_name(name: str, flag: str = "-o_p") -> None:
    """Raises StitchError if plans cannot be called so: their name is a file's and part of a folder's."""
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9.-])?", name) or "__" in name:
        raise StitchError(f"{flag} {name!r}: give a name of letters, digits, '_', '-' and '.' that begins with a "
                          f"letter or digit, without '_' at its end and without a double underscore, where nnU-Net "
                          f"splits folder names")


def model_folders_in(dataset_folder: str) -> list[str]:
    """Paths of the model folders `TRAINER__PLANS__CONFIGURATION`, sorted, whose plans know that configuration.

    So nnU-Net's `ensembles`, zip files, and a model that was set aside as `..__2d_old` are passed over. Folders with
    unreadable plans stay: whoever wants that model says what is wrong with it.
    """
    found = []
    for name in names_in(dataset_folder):
        path, parts = os.path.join(dataset_folder, name), name.split("__")
        plans = os.path.join(path, "plans.json")
        if len(parts) == 3 and all(parts) and os.path.isfile(plans) and _may_describe(plans, parts[2]):
            found.append(path)
    return found


def _may_describe(plans: str, configuration: str) -> bool:
    try:
        known = read_json(plans)["configurations"]
    except (StitchError, KeyError, TypeError):
        return True
    return not isinstance(known, dict) or configuration in known
