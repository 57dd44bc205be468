"""The EPI party: slices of pycortex's functional reference image, labels from FreeSurfer surfaces of the same head."""

from __future__ import annotations

import gzip
import json

import nibabel
import numpy as np
from archives import Package
from rawdata import RawDataset
from scipy.ndimage import affine_transform

SIZE = 128
SPACING = 1.5
FIRST_SLICE = 2
ACROSS, THROUGH = 2, 3  # samples per pixel along each axis of the slice, and through its thickness
Mesh = tuple[np.ndarray, np.ndarray]  # vertices (n, 3) in voxels, triangles (m, 3)


def segments(mesh: Mesh, z: float) -> np.ndarray:
    """Where the surface crosses the plane: `(segments, 2 ends, xy)`."""
    vertices, triangles = mesh
    above = vertices[:, 2] > z
    count = above[triangles].sum(1)
    cut = triangles[(count > 0) & (count < 3)]
    above_cut = above[cut]
    alone = np.where(above_cut.sum(1) == 1, above_cut.argmax(1), above_cut.argmin(1))
    row, ends = np.arange(len(cut)), []
    for step in (1, 2):
        # Lower index first: two triangles that share an edge then find the very same point, and contours close.
        edge = np.sort(np.stack([cut[row, alone], cut[row, (alone + step) % 3]], 1), 1)
        p, q = vertices[edge[:, 0]], vertices[edge[:, 1]]
        ends.append((p + ((z - p[:, 2]) / (q[:, 2] - p[:, 2]))[:, None] * (q - p))[:, :2])
    return np.stack(ends, 1)


def inside(mesh: Mesh, z: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which points of the grid `x` by `y` (both ascending) at height `z` a closed surface encloses.

    Along each line of constant x, points behind an odd number of crossings are inside.
    """
    found, lines = np.zeros((len(x), len(y)), bool), segments(mesh, z)
    (x0, y0), (x1, y1) = lines[:, 0].T, lines[:, 1].T
    for i, at in enumerate(x):
        hit = (x0 > at) != (x1 > at)
        crossings = y0[hit] + (at - x0[hit]) / (x1[hit] - x0[hit]) * (y1[hit] - y0[hit])
        found[i] = np.searchsorted(np.sort(crossings), y) % 2 == 1
    return found


def subsamples(positions: np.ndarray, step: float, number: int) -> np.ndarray:
    """`number` points within each position's `step`, evenly."""
    return (positions[:, None] + ((np.arange(number) + 0.5) / number - 0.5) * step).ravel()


def slice_labels(white: list[Mesh], pial: list[Mesh], z: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """1 cortex, 2 inside the white surface, by votes of the samples in each voxel of the grid.

    A voxel is foreground if at least half of its samples are, and inner if most of its foreground samples are.
    """
    fine_x, fine_y = (subsamples(p, p[1] - p[0], ACROSS) for p in (x, y))
    inner = np.zeros((len(x), len(y)), int)
    brain = np.zeros_like(inner)
    for height in subsamples(np.array([z]), 1.0, THROUGH):
        in_white = np.any([inside(mesh, height, fine_x, fine_y) for mesh in white], axis=0)
        in_pial = np.any([in_white, *(inside(mesh, height, fine_x, fine_y) for mesh in pial)], axis=0)
        for votes, samples in ((inner, in_white), (brain, in_pial)):
            votes += samples.reshape(len(x), ACROSS, len(y), ACROSS).sum((1, 3))
    return np.where(2 * inner > brain, 2, 1) * (2 * brain >= ACROSS**2 * THROUGH)


def centred(length: int, step: float, size: int = SIZE) -> np.ndarray:
    """Positions of `size` pixels, `step` voxels apart, around the middle of `length` voxels."""
    return (length - 1) / 2 + (np.arange(size) - (size - 1) / 2) * step


def cut_epi(members: dict[str, bytes]) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    reference = nibabel.Nifti1Image.from_bytes(gzip.decompress(members["reference"]))
    # Both axes of the slice run against nibabel's: turned round, they run left to right and back to front.
    volume = np.asarray(reference.dataobj, np.float32)[::-1, ::-1]
    steps = [SPACING / float(zoom) for zoom in reference.header.get_zooms()[:2]]
    x, y = (centred(length, step) for length, step in zip(volume.shape, steps))
    to_voxels = np.array(json.loads(members["transform"])["coord"])

    def mesh(name: str) -> Mesh:
        vertices, triangles = (a.data for a in nibabel.gifti.GiftiImage.from_bytes(members[name]).darrays)
        vertices = vertices.astype(np.float64) @ to_voxels[:3, :3].T + to_voxels[:3, 3]
        vertices[:, :2] = np.array(volume.shape[:2]) - 1 - vertices[:, :2]
        return vertices, triangles.astype(np.int64)

    white, pial = ([mesh(f"{kind}_{side}") for side in ("lh", "rh")] for kind in ("wm", "pia"))
    cases = {}
    for number in (n for split in EPI.numbers.values() for n in split):
        z = number + FIRST_SLICE
        image = affine_transform(volume, [*steps, 1], offset=[x[0], y[0], z], output_shape=(SIZE, SIZE, 1), order=1)
        cases[number] = image[..., 0], slice_labels(white, pial, z, x, y)
    return cases


S1 = "pycortex-1.4.0/filestore/db/S1/"
EPI = RawDataset(
    "Dataset912_BrainS1EPI",
    Package("pycortex", "1.4.0", "pycortex-1.4.0.tar.gz",
            {"reference": f"{S1}transforms/fullhead/reference.nii.gz",
             "transform": f"{S1}transforms/fullhead/matrices.xfm",
             **{name: f"{S1}surfaces/{name}.gii" for name in ("wm_lh", "wm_rh", "pia_lh", "pia_rh")}},
            "9fdb292a2df96bba6087ee07d428969ba1eb07ed03724bcfaca96ec8e28a5fd5"),
    cut_epi, {"Tr": [n for n in range(27) if n % 4 != 3], "Ts": range(3, 27, 4)},
    {"background": 0, "cortex": 1, "inner": 2}, SPACING,
    "pycortex sdist 1.4.0, filestore/db/S1 (BSD-2-Clause): EPI \"fullhead\", FreeSurfer surfaces through its transform")
