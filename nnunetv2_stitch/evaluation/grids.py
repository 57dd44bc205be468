"""Where an image's voxels lie in space, as far as nnU-Net's readers say; nnU-Net itself compares voxel by voxel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

SPACING_TOLERANCE = 1e-3  # relative; headers round
APART = 0.1  # voxels: what rounding in headers cannot do


@dataclass(frozen=True)
class Grid:
    """`spacing`: mm along the array's axes `(z, y, x)`. `affine`: `(4, 4)`, from indices `(x, y, z)` to mm towards the
    patient's left, back and head; None where the file does not say it (png, tif)."""

    spacing: tuple[float, ...]
    affine: np.ndarray | None = None


def grid_of(properties: Mapping[str, Any]) -> Grid:
    """From what nnU-Net's readers say of an image."""
    spacing = tuple(float(s) for s in properties["spacing"])
    stuff = properties.get("sitk_stuff")
    if stuff is None:
        stuff = properties.get("nibabel_stuff", {})
        affine = stuff.get("reoriented_affine", stuff.get("original_affine"))
        # nibabel's axes run to the patient's right and front
        return Grid(spacing, None if affine is None else np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(affine))
    dims = len(stuff["origin"])
    affine, kept = np.eye(4), min(dims, 3)  # of a 4d image the fourth axis are its channels
    direction = np.asarray(stuff["direction"]).reshape(dims, dims)
    affine[:kept, :kept] = (direction * np.asarray(stuff["spacing"]))[:kept, :kept]
    affine[:kept, 3] = stuff["origin"][:kept]
    return Grid(spacing, affine)


def difference(shape: Sequence[int], one: Grid, other: Grid) -> str:
    """How two images of one shape `(z, y, x)` differ in place, in words; empty where they lie on one grid."""
    if not np.allclose(one.spacing, other.spacing, rtol=SPACING_TOLERANCE):
        return f"voxel spacing {_times(one.spacing)} and {_times(other.spacing)} mm (z, y, x)"
    if one.affine is None or other.affine is None:
        return ""
    corners = np.array([(*index, 1) for index in product(*((0, n - 1) for n in reversed(shape)))], dtype=float)
    apart = np.linalg.norm(corners @ (one.affine - other.affine).T, axis=1)
    voxel = min((s for n, s in zip(shape, one.spacing) if n > 1), default=min(one.spacing))
    if apart.max() <= APART * voxel:
        return ""
    turned = not np.allclose(one.affine[:3, :3], other.affine[:3, :3], atol=APART * voxel / max(shape))
    return f"{'direction' if turned else 'origin'} differs, voxels are up to {apart.max():.4g} mm apart"


def _times(spacing: Sequence[float]) -> str:
    return " x ".join(f"{s:.4g}" for s in spacing)
