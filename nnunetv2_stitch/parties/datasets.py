"""Datasets in nnU-Net's folders, by id or name."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from functools import partial

from nnunetv2.utilities.crossval_split import generate_crossval_split

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.folders import files_in, names_in
from nnunetv2_stitch.parties.read_cache import once

STORED = (".b2nd", ".npz", ".pkl")  # what nnU-Net's preprocessing writes; it unpacks npy beside npz when it trains
ENDS = 1 << 20  # bytes of either end of a stored file that are read to tell it from others
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
        raise StitchError(f"dataset {dataset} in {variable} {root} is {what}; give the full name of one{otherwise}")
    return os.path.join(str(root), found[0])


def folds_of(folder: str, cases: Sequence[str]) -> list[dict]:
    """The `train` and `val` cases of each fold of a preprocessed dataset: those of splits_final.json, or those that
    nnU-Net will write there for these cases."""
    path = os.path.join(folder, "splits_final.json")
    if os.path.isfile(path):
        return read_json(path)
    made = generate_crossval_split(sorted(cases)) if len(cases) >= 5 else []  # with fewer nnU-Net makes none either
    return [{k: [str(c) for c in fold[k]] for k in ("train", "val")} for fold in made]


def stored_contents(data: str, cases: Sequence[str] | None = None) -> dict[str, str]:
    """What tells preprocessed cases from others, by the file's name: its size, and the sha256 of its first and last
    MiB. A small file, as those of properties are, is read whole; of a large one the middle is not, because a dataset
    has tens of GB and this is asked before every training.

    Args:
        data: folder of preprocessed data.
        cases: names of those that count; default all.
    """
    def ends(path: str) -> str:
        size = os.path.getsize(path)
        with open(path, "rb") as f:
            digest = hashlib.sha256(f.read(ENDS))
            f.seek(max(ENDS, size - ENDS))
            digest.update(f.read())
        return f"{size} {digest.hexdigest()}"

    names = [n for n in files_in(data) if n.endswith(STORED)]
    if cases is not None:
        wanted = {f"{case}{kind}" for case in cases for kind in ("_seg.b2nd", *STORED)}
        names = [n for n in names if n in wanted]
    return {n: once(("ends",), path, partial(ends, path)) for n in names for path in (os.path.join(data, n),)}


def data_digest(folder: str, data_identifier: str) -> str | None:
    """What tells the data of a training from others: sha256 over the preprocessed cases' files (see `stored_contents`),
    the folds, and what the channels and labels are. None where the dataset is not preprocessed so."""
    data = os.path.join(folder, data_identifier)
    if not os.path.isdir(data) or not os.path.isfile(os.path.join(folder, "dataset.json")):
        return None
    files = stored_contents(data)
    folds = folds_of(folder, [n[:-len(".pkl")] for n in files if n.endswith(".pkl")])
    dataset_json = read_json(os.path.join(folder, "dataset.json"))
    told = {"files": files, "folds": [{k: sorted(f[k]) for k in ("train", "val")} for f in folds],
            **{k: dataset_json.get(k) for k in TERMS}}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
