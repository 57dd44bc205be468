"""Preprocessed data under another party's plans, and the data of both parties in one dataset.

Nothing is preprocessed again: parties that can be stitched share spacing, normalisation and channels, so what one has
preprocessed is what the other's plans would have made of it.
"""

from __future__ import annotations

import copy
import os
import shutil

from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw, nnUNet_results
from nnunetv2.training.dataloading.nnunet_dataset import file_ending_dataset_mapping, infer_dataset_class

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.exchange.install import free_id, taken_ids
from nnunetv2_stitch.fileio import read_json, write_json
from nnunetv2_stitch.folders import files_in, names_in, stock_id
from nnunetv2_stitch.locks import locked, plans_locked
from nnunetv2_stitch.parties.datasets import STORED, data_digest, folds_of
from nnunetv2_stitch.parties.model_folder import BASELINE_KEY, ModelFolder
from nnunetv2_stitch.parties.preprocessed import FINGERPRINT, LABELS, SPLITS
from nnunetv2_stitch.provenance import Provenance, begin, made_from


def has_preprocessed(party: ModelFolder) -> bool:
    """Whether the party's preprocessed images are on this machine, so that one could train on them."""
    folder = party.preprocessed_folder
    data = os.path.join(folder, party.configuration_manager.data_identifier)
    return os.path.isdir(data) and all(os.path.exists(os.path.join(folder, name))
                                       for name in ("dataset.json", FINGERPRINT, LABELS))


def storage(party: ModelFolder) -> str | None:
    """How the party's preprocessed cases are stored, by the ending of their files: it depends on the version of nnU-Net
    that preprocessed them. None where nnU-Net cannot tell, and would not train."""
    folder = os.path.join(party.preprocessed_folder, party.configuration_manager.data_identifier)
    try:
        kind = infer_dataset_class(folder)
    except (AssertionError, KeyError):
        return None
    return next(ending for ending, known in file_ending_dataset_mapping.items() if known is kind)


def data_of(party: ModelFolder) -> str | None:
    """See `data_digest`."""
    return data_digest(party.preprocessed_folder, party.configuration_manager.data_identifier)


def borrow_plans(source: ModelFolder, owner: ModelFolder, plans_name: str) -> str:
    """Write `source`'s plans (network, patch and batch size) for training on `owner`'s preprocessed data.

    Returns:
        The path of the plans file in `owner`'s preprocessed folder.

    Raises:
        StitchError: there are other plans of this name.
    """
    return _write_plans(source, owner.dataset_name, owner.configuration_manager.data_identifier, plans_name)


def _write_plans(source: ModelFolder, dataset_name: str, data_identifier: str, plans_name: str) -> str:
    plans = copy.deepcopy(source.plans)
    configuration = copy.deepcopy(source.configuration_manager.configuration)
    configuration["data_identifier"] = data_identifier
    plans.update({"plans_name": plans_name, "dataset_name": dataset_name, BASELINE_KEY: True,
                  "configurations": {source.configuration: configuration}})
    path = os.path.join(str(nnUNet_preprocessed), dataset_name, f"{plans_name}.json")
    with plans_locked(path):
        if not os.path.isfile(path):
            write_json(path, plans)
        elif read_json(path) != plans:
            raise StitchError(f"{path} holds other plans; move it away and start again")
    return path


def pool_datasets(host: ModelFolder, partner: ModelFolder, plans_name: str) -> str:
    """A preprocessed dataset of both parties' cases under the host's plans; files are linked, not copied.

    Cases are named `A_...` and `B_...`. Fold k trains on both parties' training cases of fold k and validates on both
    parties' validation cases; a party without that fold trains on all its cases.

    Returns:
        The dataset's name, `DatasetNNN_<A>And<B>` under a free id; the same name in a second call for the same data. A
        dataset of that name that was not made from these is left alone.
    """
    record = Provenance("pooled dataset", {
        "parties": [p.dataset_name for p in (host, partner)], "data": [data_of(p) for p in (host, partner)],
        "data_identifier": host.configuration_manager.data_identifier})
    with locked(os.path.join(str(nnUNet_preprocessed), ".pooled.lock")):
        name = _pooled_name(host, partner, record)
        if not os.path.isdir(os.path.join(str(nnUNet_preprocessed), name)):
            _pool(host, partner, name, record)
    _write_plans(host, name, host.configuration_manager.data_identifier, plans_name)
    return name


def _pool(host: ModelFolder, partner: ModelFolder, name: str, record: Provenance) -> None:
    data_identifier = host.configuration_manager.data_identifier
    # A name that nnU-Net does not take for a dataset.
    unfinished = os.path.join(str(nnUNet_preprocessed), f".unfinished_{record.name('pooled')}")
    begin(unfinished, record)
    for part in (data_identifier, LABELS):  # of an earlier call that was interrupted
        shutil.rmtree(os.path.join(unfinished, part), ignore_errors=True)
        os.makedirs(os.path.join(unfinished, part))
    splits, cases = [], 0
    for prefix, party in (("A_", host), ("B_", partner)):
        identifiers = _link_party(party, prefix, unfinished, data_identifier)
        cases += len(identifiers)
        splits.append(_prefixed_splits(party, prefix, identifiers))
    folds = max(len(s) for s, _ in splits)
    pooled = [{part: sum((s[k][part] if k < len(s) else rest[part] for s, rest in splits), [])
               for part in ("train", "val")} for k in range(folds)]
    write_json(os.path.join(unfinished, SPLITS), pooled)
    write_json(os.path.join(unfinished, "dataset.json"), {**host.dataset_json, "numTraining": cases})
    link(os.path.join(host.preprocessed_folder, FINGERPRINT), os.path.join(unfinished, FINGERPRINT))
    os.replace(unfinished, os.path.join(str(nnUNet_preprocessed), name))


def _link_party(party: ModelFolder, prefix: str, target: str, data_identifier: str) -> list[str]:
    """Link a party's preprocessed cases and labels under prefixed names; returns its case names."""
    source = party.preprocessed_folder
    for ours, theirs, endings in ((data_identifier, party.configuration_manager.data_identifier, STORED),
                                  (LABELS, LABELS, party.dataset_json["file_ending"])):
        for file in files_in(os.path.join(source, theirs), endings):
            link(os.path.join(source, theirs, file), os.path.join(target, ours, prefix + file))
    data = os.path.join(source, party.configuration_manager.data_identifier)
    identifiers = [n[:-len(".pkl")] for n in files_in(data, ".pkl")]
    if not identifiers:
        raise StitchError(f"{source} holds no preprocessed case; run nnUNetv2_preprocess "
                          f"-d {stock_id(party.dataset_name)}")
    return identifiers


def _prefixed_splits(party: ModelFolder, prefix: str, identifiers: list[str]) -> tuple[list[dict], dict]:
    splits = folds_of(party.preprocessed_folder, identifiers)

    def named(cases):
        return [prefix + c for c in cases]

    return [{k: named(s[k]) for k in ("train", "val")} for s in splits], {"train": named(identifiers), "val": []}


def link(source: str, target: str) -> None:
    if os.path.lexists(target):  # in our own unfinished folder
        os.remove(target)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def _pooled_name(host: ModelFolder, partner: ModelFolder, record: Provenance) -> str:
    """The dataset that was made for exactly this, or a name of which nothing is there."""
    short = "And".join(p.dataset_name.split("_", 1)[1] for p in (host, partner))
    for name in names_in(str(nnUNet_preprocessed)):
        if name.split("_", 1)[-1] == short and made_from(os.path.join(str(nnUNet_preprocessed), name)) == record:
            return name
    free = free_id(taken_ids([folder.get() for folder in (nnUNet_raw, nnUNet_preprocessed, nnUNet_results)]))
    if free is None:
        raise StitchError("all dataset ids from 1 to 999 are taken, and pooled data need one; remove a dataset")
    return f"Dataset{free:03d}_{short}"
