"""Datasets in nnU-Net's folders, by id or name."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence

from nnunetv2.utilities.crossval_split import generate_crossval_split

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.folders import names_in

STORED = (".b2nd", ".npz", ".pkl")  # what nnU-Net's preprocessing writes; it unpacks npy beside npz when it trains
TERMS = ("labels", "regions_class_order", "channel_names", "modality")  # of dataset.json


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


def folds_of(folder: str, cases: Sequence[str]) -> list[dict]:
    """The `train` and `val` cases of each fold of a preprocessed dataset: those of splits_final.json, or those that
    nnU-Net will write there for these cases."""
    path = os.path.join(folder, "splits_final.json")
    if os.path.isfile(path):
        return read_json(path)
    made = generate_crossval_split(sorted(cases)) if len(cases) >= 5 else []  # with fewer nnU-Net makes none either
    return [{k: [str(c) for c in fold[k]] for k in ("train", "val")} for fold in made]


def data_digest(folder: str, data_identifier: str) -> str | None:
    """What tells the data of a training from others: sha256 over the preprocessed cases' files (names and sizes), the
    folds, and what the channels and labels are. None where the dataset is not preprocessed so."""
    data = os.path.join(folder, data_identifier)
    if not os.path.isdir(data) or not os.path.isfile(os.path.join(folder, "dataset.json")):
        return None
    files = {n: os.path.getsize(os.path.join(data, n)) for n in sorted(os.listdir(data)) if n.endswith(STORED)}
    folds = folds_of(folder, [n[:-len(".pkl")] for n in files if n.endswith(".pkl")])
    dataset_json = read_json(os.path.join(folder, "dataset.json"))
    told = {"files": files, "folds": [{k: sorted(f[k]) for k in ("train", "val")} for f in folds],
            **{k: dataset_json.get(k) for k in TERMS}}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
