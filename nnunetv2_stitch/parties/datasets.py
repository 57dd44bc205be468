"""Datasets in nnU-Net's folders, by id or name."""

from __future__ import annotations

import os
from collections.abc import Sequence

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.folders import names_in


def matching(names: Sequence[str], dataset: int | str) -> list[str]:
    """Of the folders' names those that an id (911, '911') or a full name ('Dataset911_X') means."""
    wanted = str(dataset).strip()
    if wanted.isdecimal():
        return [n for n in names if n.startswith(f"Dataset{int(wanted):03d}_")]
    return [n for n in names if n == wanted]


def find_dataset(root, variable: str, dataset: int | str, otherwise: str = "") -> str:
    """The folder of a dataset below one of nnU-Net's three folders.

    Args:
        root: nnUNet_raw, nnUNet_preprocessed or nnUNet_results of nnunetv2.paths; `variable` is its name.
        otherwise: what else may be done where the dataset is not there, for the message.

    Raises:
        StitchError: the variable is not set, no such dataset, or two of one id.
    """
    if not root.is_set() or not os.path.isdir(str(root)):
        raise StitchError(f"environment variable {variable} does not name a folder; set nnU-Net's three folders first")
    there = [n for n in names_in(str(root)) if n.startswith("Dataset") and os.path.isdir(os.path.join(str(root), n))]
    found = matching(there, dataset)
    if len(found) != 1:
        what = f"taken twice: {', '.join(found)}" if found else f"not there; there are: {', '.join(there) or 'none'}"
        raise StitchError(f"dataset {dataset} in {variable} {root} is {what}; give -d one full name{otherwise}")
    return os.path.join(str(root), found[0])
