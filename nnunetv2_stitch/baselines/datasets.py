"""Preprocessed data under another party's plans, and the data of both parties in one dataset.

Nothing is preprocessed again: parties that can be stitched share spacing, normalisation and channels, so what one has
preprocessed is what the other's plans would have made of it.
"""

from __future__ import annotations

import copy
import os
import shutil

from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw, nnUNet_results

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import read_json, write_json
from nnunetv2_stitch.folders import files_in
from nnunetv2_stitch.parties.model_folder import ModelFolder
from nnunetv2_stitch.parties.reading import BASELINE_KEY

FINGERPRINT, SPLITS, LABELS = "dataset_fingerprint.json", "splits_final.json", "gt_segmentations"


def preprocessed_folder(party: ModelFolder) -> str:
    return os.path.join(str(nnUNet_preprocessed), party.dataset_name)


def has_preprocessed(party: ModelFolder) -> bool:
    """Whether the party's preprocessed images are on this machine, so that one could train on them."""
    folder = preprocessed_folder(party)
    data = os.path.join(folder, party.configuration_manager.data_identifier)
    return os.path.isdir(data) and all(os.path.exists(os.path.join(folder, name))
                                       for name in ("dataset.json", FINGERPRINT, LABELS))


def borrow_plans(source: ModelFolder, owner: ModelFolder, plans_name: str) -> str:
    """Write `source`'s plans (network, patch and batch size) for training on `owner`'s preprocessed data.

    Returns:
        The path of the plans file in `owner`'s preprocessed folder.
    """
    return _write_plans(source, owner.dataset_name, owner.configuration_manager.data_identifier, plans_name)


def _write_plans(source: ModelFolder, dataset_name: str, data_identifier: str, plans_name: str) -> str:
    plans = copy.deepcopy(source.plans)
    configuration = copy.deepcopy(source.configuration_manager.configuration)
    configuration["data_identifier"] = data_identifier
    plans.update({"plans_name": plans_name, "dataset_name": dataset_name, BASELINE_KEY: True,
                  "configurations": {source.configuration: configuration}})
    path = os.path.join(str(nnUNet_preprocessed), dataset_name, f"{plans_name}.json")
    if not os.path.isfile(path) or read_json(path) != plans:
        write_json(path, plans)
    return path


def merge_datasets(host: ModelFolder, partner: ModelFolder, plans_name: str) -> str:
    """A preprocessed dataset of both parties' cases under the host's plans; files are linked, not copied.

    Cases are named `A_...` and `B_...`. Fold k trains on both parties' training cases of fold k and validates on both
    parties' validation cases; a party without that fold trains on all its cases.

    Returns:
        The dataset's name, `DatasetNNN_<A>And<B>` under a free id; the same name in a second call.
    """
    name = _merged_name(host, partner)
    folder = os.path.join(str(nnUNet_preprocessed), name)
    data_identifier = host.configuration_manager.data_identifier
    # A name that nnU-Net does not take for a dataset.
    unfinished = os.path.join(str(nnUNet_preprocessed), f".unfinished_{name}")
    if not os.path.isdir(os.path.join(folder, data_identifier)):
        shutil.rmtree(unfinished, ignore_errors=True)
        for part in (data_identifier, LABELS):
            os.makedirs(os.path.join(unfinished, part))
        splits, cases = [], 0
        for prefix, party in (("A_", host), ("B_", partner)):
            identifiers = _link_party(party, prefix, unfinished, data_identifier)
            cases += len(identifiers)
            splits.append(_prefixed_splits(party, prefix, identifiers))
        folds = max(len(s) for s, _ in splits)
        merged = [{part: sum((s[k][part] if k < len(s) else rest[part] for s, rest in splits), [])
                   for part in ("train", "val")} for k in range(folds)]
        write_json(os.path.join(unfinished, SPLITS), merged)
        write_json(os.path.join(unfinished, "dataset.json"), {**host.dataset_json, "numTraining": cases})
        _link(os.path.join(preprocessed_folder(host), FINGERPRINT), os.path.join(unfinished, FINGERPRINT))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(unfinished, folder)
    _write_plans(host, name, data_identifier, plans_name)
    return name


def _link_party(party: ModelFolder, prefix: str, target: str, data_identifier: str) -> list[str]:
    """Link a party's preprocessed cases and labels under prefixed names; returns its case names."""
    source = preprocessed_folder(party)
    for ours, theirs in ((data_identifier, party.configuration_manager.data_identifier), (LABELS, LABELS)):
        for file in files_in(os.path.join(source, theirs)):
            _link(os.path.join(source, theirs, file), os.path.join(target, ours, prefix + file))
    data = os.path.join(source, party.configuration_manager.data_identifier)
    identifiers = [n[:-len(".pkl")] for n in files_in(data, ".pkl")]
    if not identifiers:
        raise StitchError(f"{source} holds no preprocessed case; run nnUNetv2_preprocess -d {party.dataset_name}")
    return identifiers


def _prefixed_splits(party: ModelFolder, prefix: str, identifiers: list[str]) -> tuple[list[dict], dict]:
    path = os.path.join(preprocessed_folder(party), SPLITS)
    splits = read_json(path) if os.path.isfile(path) else []

    def named(cases):
        return [prefix + c for c in cases]

    return [{k: named(s[k]) for k in ("train", "val")} for s in splits], {"train": named(identifiers), "val": []}


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def _merged_name(host: ModelFolder, partner: ModelFolder) -> str:
    short = "And".join(p.dataset_name.split("_", 1)[1] for p in (host, partner))
    there = {n for folder in (nnUNet_raw, nnUNet_preprocessed, nnUNet_results)
             if folder.is_set() and os.path.isdir(str(folder)) for n in os.listdir(str(folder))}
    existing = [n for n in there if n.startswith("Dataset") and n.split("_", 1)[-1] == short]
    if existing:
        return existing[0]
    taken = {n[7:10] for n in there if n.startswith("Dataset")}
    free = next(str(i) for i in range(999, 0, -1) if f"{i:03d}" not in taken)
    return f"Dataset{int(free):03d}_{short}"
