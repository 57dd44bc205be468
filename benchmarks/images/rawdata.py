"""Arrays to an nnU-Net raw dataset of one-slice images."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import nibabel
import numpy as np
from archives import Package

from nnunetv2_stitch.fileio import atomically, write_json

FILE_ENDING = ".nii.gz"


@dataclass(frozen=True)
class RawDataset:
    """`cut` makes (image, labels) by case number from the package's members; `numbers`: split -> case numbers."""

    dataset: str
    package: Package
    cut: Callable[[dict[str, bytes]], dict[int, tuple[np.ndarray, np.ndarray]]]
    numbers: dict[str, Sequence[int]]
    labels: dict[str, int]
    spacing: float
    reference: str

    @property
    def name(self) -> str:
        return self.dataset.split("_", 1)[1]


def write_dataset(raw_folder: str, what: RawDataset, cases: dict[int, tuple[np.ndarray, np.ndarray]]) -> None:
    """Write images as 32-bit floats and labels as 8-bit integers, with labels for the test cases too."""
    folder = os.path.join(raw_folder, what.dataset)
    # 999 between slices makes nnU-Net plan 2d only.
    affine = np.diag([-what.spacing, -what.spacing, 999, 1])

    def write(array: np.ndarray, *path: str) -> None:
        nifti = nibabel.Nifti1Image(array[..., None], affine)
        atomically(os.path.join(folder, *path), lambda temporary: nibabel.save(nifti, temporary))

    for split, numbers in what.numbers.items():
        for number in numbers:
            image, labels = cases[number]
            name = f"{what.name}_{number:03d}"
            write(image.astype(np.float32), f"images{split}", f"{name}_0000{FILE_ENDING}")
            write(labels.astype(np.uint8), f"labels{split}", f"{name}{FILE_ENDING}")
    # Last, so that its presence says that the dataset is whole.
    write_json(os.path.join(folder, "dataset.json"), {
        "channel_names": {"0": "image"}, "labels": what.labels, "numTraining": len(what.numbers["Tr"]),
        "file_ending": FILE_ENDING, "name": what.name, "reference": what.reference,
        "overwrite_image_reader_writer": "NibabelIO",
    })
