"""Labelled cases of a raw dataset that a network was not trained on, preprocessed by a host's plans."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunetv2_stitch.errors import StitchError, last_line
from nnunetv2_stitch.evaluation.grids import difference, grid_of
from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.folders import files_in, image_files
from nnunetv2_stitch.inference.images import require_channels_of
from nnunetv2_stitch.nnunet_internals import training_files
from nnunetv2_stitch.parties.datasets import find_dataset
from nnunetv2_stitch.parties.preprocessed import SPLITS, split_of_fold
from nnunetv2_stitch.selection.party_terms import PartyTerms

Case = tuple[np.ndarray, np.ndarray]  # data (C, z, y, x), segmentation (1, z, y, x)


@dataclass(frozen=True)
class CaseFiles:
    """A case's image files, in their order, and its reference segmentation."""

    images: tuple[str, ...]
    label: str


@dataclass(frozen=True)
class RawDataset:
    """A dataset of nnU-Net in nnUNet_raw."""

    name: str
    folder: str
    dataset_json: dict

    @property
    def splits_file(self) -> str | None:
        """`splits_final.json` of the preprocessed dataset; None if there is none here."""
        if not nnUNet_preprocessed.is_set():
            return None
        path = os.path.join(str(nnUNet_preprocessed), self.name, SPLITS)
        return path if os.path.isfile(path) else None

    @property
    def has_test_cases(self) -> bool:
        labels = os.path.join(self.folder, "labelsTs")
        return os.path.isdir(labels) and bool(files_in(labels, self.dataset_json["file_ending"]))


def raw_dataset(dataset: int | str) -> RawDataset:
    """A dataset by id or name.

    Raises:
        StitchError: nnUNet_raw is not set, no such dataset, two of one id, or no readable dataset.json.
    """
    folder = find_dataset(nnUNet_raw, "nnUNet_raw", dataset)
    dataset_json = read_json(os.path.join(folder, "dataset.json"))
    if not isinstance(dataset_json, dict) or not isinstance(dataset_json.get("file_ending"), str):
        raise StitchError(f"{folder}/dataset.json names no file_ending; is it nnU-Net v2's?")
    return RawDataset(os.path.basename(folder), folder, dataset_json)


def validation_files(dataset: RawDataset, fold: int | str) -> list[CaseFiles]:
    """The cases that nnU-Net leaves out of the training of a fold.

    Raises:
        StitchError: files are missing.
    """
    path = dataset.splits_file
    try:
        files = training_files(dataset.folder, copy.deepcopy(dataset.dataset_json))
    except FileNotFoundError as error:
        raise StitchError(f"{error.filename} does not exist; nnUNet_raw must hold the dataset's images") from error
    names = sorted(split_of_fold(os.path.dirname(path), fold, files)[1])
    missing = [n for n in names if n not in files]
    if missing:
        raise StitchError(f"case {missing[0]} of {path} has no image in {dataset.folder}; nnUNet_raw must hold the "
                          f"dataset that was trained on")
    return _whole(CaseFiles(tuple(files[n]["images"]), files[n]["label"]) for n in names)


def test_files(folder: str, ending: str) -> list[CaseFiles]:
    """The cases of `imagesTs` that `labelsTs` has references for, in order of their names.

    Raises:
        StitchError: a reference without its images.
    """
    labels = os.path.join(folder, "labelsTs")
    images = image_files(os.path.join(folder, "imagesTs"), ending)
    stems = [n[:-len(ending)] for n in files_in(labels, ending)]
    return _whole(CaseFiles(tuple(images.get(s, [os.path.join(folder, "imagesTs", f"{s}_0000{ending}")])),
                            os.path.join(labels, s + ending)) for s in stems)


def _whole(cases: Iterable[CaseFiles]) -> list[CaseFiles]:
    cases = list(cases)
    missing = next((f for c in cases for f in (*c.images, c.label) if not os.path.isfile(f)), None)
    if missing:
        raise StitchError(f"{missing} does not exist; every case needs its images and its reference")
    return cases


def _ignored(path: str, said: str) -> None:
    pass


def preprocess(case: CaseFiles, terms: PartyTerms, plans_manager: PlansManager,
               configuration_manager: ConfigurationManager, apart: Callable[[str, str], None] = _ignored) -> Case:
    """Data and reference of a case on the grid of a host's plans, in the host's channels and label numbers.

    Args:
        apart: is told the reference's file, and how far its place in space is from the image's, where they differ.

    Raises:
        StitchError: files that cannot be read or do not belong together.
    """
    reader = plans_manager.image_reader_writer_class()
    if not any(case.label.lower().endswith(e) for e in reader.supported_file_endings):
        raise StitchError(f"{case.label}: the model's image reader {type(reader).__name__} does not read this format, "
                          f"only {', '.join(reader.supported_file_endings)}; convert the dataset")
    try:
        data, properties = reader.read_images(case.images)  # a file may hold several channels
        segmentation, reference = reader.read_seg(case.label)
    except Exception as error:  # readers raise what their libraries do
        raise StitchError(f"{case.label} or its images cannot be read ({last_line(error)}); check them with "
                          f"nnUNetv2_plan_and_preprocess --verify_dataset_integrity") from error
    if data.shape[1:] != segmentation.shape[1:]:
        raise StitchError(f"{case.label} is of shape {segmentation.shape[1:]}, its image of {data.shape[1:]}; they "
                          f"must lie on the same grid")
    require_channels_of(os.path.basename(case.label), case.images, len(data), terms.of)
    if said := difference(data.shape[1:], grid_of(properties), grid_of(reference)):
        apart(case.label, said)
    data = data[list(terms.channels)]
    data, segmentation, _ = configuration_manager.preprocessor_class(verbose=False).run_case_npy(
        data, terms.renumbered(segmentation, case.label), properties, plans_manager, configuration_manager,
        terms.dataset_json)
    return data, segmentation
