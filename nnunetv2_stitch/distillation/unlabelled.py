"""Images without labels: checked, preprocessed once, and drawn from together with the labelled ones."""

from __future__ import annotations

import hashlib
import os
import shutil

import numpy as np
from nnunetv2.preprocessing.preprocessors.default_preprocessor import comp_blosc2_params
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset, nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from tqdm import tqdm

from nnunetv2_stitch.errors import StitchError, last_line
from nnunetv2_stitch.fileio import read_json, write_json
from nnunetv2_stitch.folders import image_files
from nnunetv2_stitch.inference.images import require_channels_of

PREFIX = "unlabelled/"  # before an identifier; no file name can hold it
SOURCE_FILE = "source.json"
PLACES = 10000  # where patches may be centred, kept per image


def fingerprint(folder: str, file_ending: str) -> str:
    """A sha256 of the names, sizes and times of a folder's images, which changes when they do."""
    digest = hashlib.sha256()
    files = [f for found in image_files(folder, file_ending).values() for f in found]
    beside = [f[:-len(file_ending) - 5] + ".json" for f in files]  # where nnU-Net's reader of tif finds the spacing
    for path in sorted({*files, *filter(os.path.isfile, beside)}):
        name, status = os.path.basename(path), os.stat(path)
        digest.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def preprocess_unlabelled(images: str, target: str, plans: dict, configuration: str, dataset_json: dict,
                          source: str, progress: bool = True) -> None:
    """Preprocess the images of a folder by a student's plans into `target`, which is whole or not there at all.

    Does nothing where `target` was made from the same images.

    Args:
        images: the folder, files as nnU-Net names them.
        plans, configuration, dataset_json: of the student.
        source: the images' `fingerprint`.
        progress: show a progress bar.

    Raises:
        StitchError: an image cannot be read or has other channels than the student, or `target` is a folder that was
            not made here.
    """
    marker = os.path.join(target, SOURCE_FILE)
    if os.path.isfile(marker) and read_json(marker)["sha256"] == source:
        return
    unfinished = os.path.join(os.path.dirname(target), f".unfinished_{os.path.basename(target)}")
    for folder in (target, unfinished):
        if os.path.lexists(folder) and not os.path.isfile(os.path.join(folder, SOURCE_FILE)):
            raise StitchError(f"{folder} is there and was not made by this command ({SOURCE_FILE} is missing); move it "
                              f"away, or choose another name with -o_p")
    manager = PlansManager(plans)
    configuration_manager = manager.get_configuration(configuration)
    preprocessor = configuration_manager.preprocessor_class(verbose=False)
    ignored = manager.get_label_manager(dataset_json)
    shutil.rmtree(unfinished, ignore_errors=True)
    write_json(os.path.join(unfinished, SOURCE_FILE), {"sha256": source})
    ending = dataset_json["file_ending"]
    try:
        for case, files in tqdm(image_files(images, ending).items(), unit="image",
                                desc="preprocessing unlabelled images", disable=not progress):
            try:
                data, inside, properties = preprocessor.run_case(files, None, manager, configuration_manager,
                                                                 dataset_json)
            except Exception as error:  # readers raise what their libraries do
                raise StitchError(f"{files[0]} cannot be read or preprocessed ({last_line(error)}); repair it or take "
                                  f"it out of the folder") from error
            require_channels_of(case, files, len(data), len(configuration_manager.normalization_schemes))
            properties["class_locations"] = _places(inside, ignored)
            _save(data, inside, properties, os.path.join(unfinished, case), configuration_manager.patch_size)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(unfinished, target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _places(inside: np.ndarray, label_manager) -> dict:
    """Where nnU-Net's loader may centre patches: it asks for foreground, of which nothing is known, and for what is
    annotated where there is an ignore label, which here is the whole image."""
    if not label_manager.has_ignore_label:
        return {}
    found = np.argwhere(inside >= 0)
    if len(found) > PLACES:
        found = found[np.random.RandomState(1234).choice(len(found), PLACES, replace=False)]
    return {tuple([-1, *label_manager.all_labels]): found}


def _save(data: np.ndarray, inside: np.ndarray, properties: dict, path: str, patch_size) -> None:
    """As nnU-Net's preprocessor saves a case."""
    data, inside = data.astype(np.float32, copy=False), inside.astype(np.int16, copy=False)
    blocks, chunks = comp_blosc2_params(data.shape, tuple(patch_size), data.itemsize)
    blocks_seg, chunks_seg = comp_blosc2_params(inside.shape, tuple(patch_size), inside.itemsize)
    nnUNetDatasetBlosc2.save_case(data, inside, properties, path, chunks=chunks, blocks=blocks, chunks_seg=chunks_seg,
                                  blocks_seg=blocks_seg)


def is_labelled(identifier: str) -> bool:
    return not str(identifier).startswith(PREFIX)


class JoinedDataset:
    """Labelled and unlabelled cases as one dataset for nnU-Net's loader, which draws cases by chance.

    All cases are drawn alike, but the labelled ones are listed again so often that unlabelled ones are at most half
    of what is drawn: a student with thousands of unlabelled images shall still see its labels.
    """

    def __init__(self, labelled: nnUNetBaseDataset, folder: str):
        self.labelled = labelled
        self.unlabelled = nnUNetDatasetBlosc2(folder)
        own, more = list(labelled.identifiers), sorted(n for n in self.unlabelled.identifiers if not n.startswith("."))
        self.identifiers = own * max(1, -(-len(more) // len(own))) + [PREFIX + name for name in more]

    def load_case(self, identifier: str):
        if is_labelled(identifier):
            return self.labelled.load_case(identifier)
        return self.unlabelled.load_case(str(identifier)[len(PREFIX):])

    __getitem__ = load_case
