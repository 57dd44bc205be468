"""A dataset as nnU-Net's trainer finds it in nnUNet_preprocessed: its cases, and those that a fold leaves out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from batchgenerators.utilities.file_and_folder_operations import load_pickle
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.folders import stock_id
from nnunetv2_stitch.nnunet_internals import split
from nnunetv2_stitch.parties.datasets import folds_of

SPLITS, FINGERPRINT, LABELS = "splits_final.json", "dataset_fingerprint.json", "gt_segmentations"
FOLDS = 5  # that nnU-Net makes where there are no splits


def split_of_fold(folder: str, fold: int | str, cases: Iterable[str]) -> tuple[list[str], list[str]]:
    """Training and validation cases of a fold, by nnU-Net's own `do_split`: all for `all`, those of splits_final.json,
    or a seeded 80:20 split of all cases for a fold beyond these. Without splits_final.json nnU-Net writes it.

    Args:
        folder: the dataset's, in nnUNet_preprocessed.
        cases: names of all its preprocessed cases.
    """
    return split(folder, fold, sorted(cases))


def case_names(data: str) -> list[str]:
    """Names of the cases in a folder of preprocessed data, sorted.

    Raises:
        StitchError: none, or of several versions of nnU-Net.
    """
    try:
        found = sorted(infer_dataset_class(data).get_identifiers(data))
    except (AssertionError, KeyError, OSError):
        found = []
    if not found:
        raise StitchError(f"{data} holds no preprocessed cases, or cases of several versions of nnU-Net; preprocess "
                          f"them again (nnUNetv2_preprocess)")
    return found


def validation_names(folder: str, data_identifier: str, fold: int | str) -> list[str]:
    """The preprocessed cases that nnU-Net leaves out of the training of a fold, sorted."""
    return sorted(split_of_fold(folder, fold, case_names(os.path.join(folder, data_identifier)))[1])


def folds_without_foreground(folder: str, data_identifier: str, folds: Sequence[int | str]) -> list[int | str]:
    """Those of the folds whose validation cases hold no foreground label, by what nnU-Net's preprocessing found
    (`class_locations` of the properties), so nothing can be chosen by Dice on them. Writes nothing.

    Args:
        folder: the dataset's, in nnUNet_preprocessed; `require_trainable` of the same holds.
    """
    data = os.path.join(folder, data_identifier)
    cases = case_names(data)
    planned = folds_of(folder, cases)

    def validation(fold: int | str) -> Sequence[str]:
        if fold != "all" and int(fold) < len(planned):
            return planned[int(fold)]["val"]
        return split_of_fold(folder, fold, cases)[1]

    return [f for f in folds if not any(_has_foreground(os.path.join(data, f"{c}.pkl")) for c in validation(f))]


def _has_foreground(path: str) -> bool:
    """Whether a case does, or its properties do not say."""
    try:
        found = load_pickle(path)["class_locations"].items()
        return any(len(voxels) for label, voxels in found if not (isinstance(label, tuple) and -1 in label))
    except (OSError, AttributeError, KeyError, TypeError):
        return True


def require_trainable(folder: str, data_identifier: str, folds: Sequence[int | str], preprocess: str) -> None:
    """What nnU-Net's trainer needs of a dataset, looked for before hours of training; writes nothing.

    Args:
        preprocess: what makes the data, for the message.

    Raises:
        StitchError: data, fingerprint or reference segmentations are missing, or the splits name cases that are.
    """
    data, dataset = os.path.join(folder, data_identifier), stock_id(os.path.basename(folder))
    for path in (data, os.path.join(folder, "dataset.json")):
        if not os.path.exists(path):
            raise StitchError(f"{path} does not exist: {preprocess}")
    for path, why, command in ((FINGERPRINT, "training", f"nnUNetv2_extract_fingerprint -d {dataset}"),
                               (LABELS, "validation", f"nnUNetv2_preprocess -d {dataset}")):
        if not os.path.exists(os.path.join(folder, path)):
            raise StitchError(f"{os.path.join(folder, path)} does not exist; nnU-Net wants it for {why}: run {command}")
    cases, splits = set(case_names(data)), os.path.join(folder, SPLITS)
    numbered = [f for f in folds if f != "all"]
    if numbered and os.path.isfile(splits):
        read_json(splits)  # says in one line where it cannot be read
    elif numbered:
        if len(cases) < FOLDS:
            raise StitchError(f"{data} holds {len(cases)} cases, too few for the {FOLDS} folds that nnU-Net makes "
                              f"where there is no {splits}; write that file, or train fold all")
        folds = [f for f in folds if f == "all"]  # it makes them of the cases that are there
    ending = read_json(os.path.join(folder, "dataset.json"))["file_ending"]
    for fold in folds:
        training, validation = split_of_fold(folder, fold, cases)
        if not training or not validation:
            raise StitchError(f"{splits}: fold {fold} has no {'validation' if training else 'training'} cases; give it "
                              f"some, or take another fold")
        missing = [c for c in (*training, *validation) if c not in cases]
        if missing:
            raise StitchError(f"case {missing[0]} of fold {fold} in {splits} is not in {data}; {preprocess}")
        unlabelled = [c for c in validation if not os.path.isfile(os.path.join(folder, LABELS, c + ending))]
        if unlabelled:
            raise StitchError(f"{os.path.join(folder, LABELS, unlabelled[0] + ending)} does not exist; nnU-Net wants "
                              f"it for validation: run nnUNetv2_preprocess -d {dataset}")
