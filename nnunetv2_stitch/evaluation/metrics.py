"""Measures of one case: Dice as nnU-Net's, surface Dice at a tolerance, 95 % Hausdorff distance.

Surfaces are those of MONAI (`compute_surface_dice`, `compute_hausdorff_distance(percentile=95)`), of which a test
checks that the numbers are the same; made here from scipy alone, because importing MONAI imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

EMPTY = ("", "reference", "prediction", "both")


@dataclass(frozen=True)
class Measure:
    """How a measure is called, counted and read."""

    key: str
    title: str
    unit: str
    higher_is_better: bool
    digits: int

    @property
    def heading(self) -> str:
        return f"{self.title} ({self.unit})" if self.unit else self.title


MEASURES = (Measure("dice", "Dice", "", True, 3), Measure("surface_dice", "Surface Dice", "", True, 3),
            Measure("hd95", "HD95", "mm", False, 2))


@dataclass(frozen=True)
class CaseScore:
    """Measures of one label of one case; `empty` says where the label is absent (`EMPTY`)."""

    dice: float
    surface_dice: float
    hd95: float
    empty: str = ""


def score_label(reference: np.ndarray, prediction: np.ndarray, spacing: Sequence[float], tolerance: float,
                counted: np.ndarray | None = None) -> CaseScore:
    """Compare two masks of one label.

    Dice is `2 TP / (2 TP + FP + FN)` over the counted voxels, as nnU-Net's `compute_metrics`. The surface of a mask are
    its voxels with a neighbour (across a face; within the plane for one-slice images) outside of it; a mask that
    reaches the border of the image has a surface there. Distances in mm run from each surface voxel's centre to the
    nearest surface voxel of the other mask. Surface Dice is the share of both surfaces' voxels that are at most
    `tolerance` away; HD95 the larger of both directions' 95th percentiles.

    Where the label is absent: in both, all measures are NaN, as nnU-Net's Dice is; in one of them, Dice and surface
    Dice are 0 and HD95 is the diagonal of the image, for no distance can be measured and leaving the case out would
    reward predicting nothing.

    Args:
        reference, prediction: bool, `(z, y, x)` or any other number of axes, of one shape.
        spacing: mm along each axis. Axes of one voxel are left out, so the 999 mm that nnU-Net gives the third axis
            of 2d images do not matter.
        tolerance: mm.
        counted: bool, of the same shape: voxels that count; the others are in neither mask.
    """
    if counted is not None:
        reference, prediction = reference & counted, prediction & counted
    both = int(np.count_nonzero(reference & prediction))
    in_reference, in_prediction = int(np.count_nonzero(reference)), int(np.count_nonzero(prediction))
    if not in_reference and not in_prediction:
        return CaseScore(np.nan, np.nan, np.nan, "both")
    if not in_reference or not in_prediction:
        return CaseScore(0.0, 0.0, diagonal(reference.shape, spacing), "prediction" if in_reference else "reference")
    to_prediction, to_reference = surface_distances(reference, prediction, spacing)
    # Rounding in the distance transform must not decide about voxels that are exactly the tolerance away.
    within = sum(int(np.count_nonzero(d <= tolerance + 1e-6)) for d in (to_prediction, to_reference))
    return CaseScore(2 * both / (in_reference + in_prediction), within / (len(to_prediction) + len(to_reference)),
                     float(max(np.percentile(d, 95) for d in (to_prediction, to_reference))))


def score_case(reference: np.ndarray, prediction: np.ndarray, spacing: Sequence[float],
               regions: Mapping[str, Sequence[int]], tolerance: float,
               ignore: int | None = None) -> dict[str, CaseScore]:
    """Every label or region of a case: name -> measures.

    Args:
        reference, prediction: integers, of one shape.
        regions: name -> the values in it.
        ignore: value of the reference whose voxels count in neither mask.
    """
    counted = None if ignore is None else reference != ignore
    return {name: score_label(np.isin(reference, list(values)), np.isin(prediction, list(values)), spacing, tolerance,
                              counted) for name, values in regions.items()}


def surface_distances(a: np.ndarray, b: np.ndarray, spacing: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Distances in mm from each surface voxel of `a` to the surface of `b`, and of `b` to that of `a`; neither mask may
    be empty."""
    a, spacing_kept = drop_single_axes(a, spacing)
    b, _ = drop_single_axes(b, spacing)
    box = ndimage.find_objects((a | b).astype(np.uint8))[0]  # the rest of a large image changes nothing
    surfaces = [mask & ~ndimage.binary_erosion(mask) for mask in (a[box], b[box])]
    to_a, to_b = (ndimage.distance_transform_edt(~surface, sampling=spacing_kept) for surface in surfaces)
    return to_b[surfaces[0]], to_a[surfaces[1]]


def drop_single_axes(mask: np.ndarray, spacing: Sequence[float]) -> tuple[np.ndarray, tuple[float, ...]]:
    """Without the axes of one voxel, along which a mask has no inside; at least one axis stays."""
    kept = [axis for axis, size in enumerate(mask.shape) if size > 1] or [mask.ndim - 1]
    return mask.reshape([mask.shape[axis] for axis in kept]), tuple(float(spacing[axis]) for axis in kept)


def diagonal(shape: Sequence[int], spacing: Sequence[float]) -> float:
    """Of the whole image, in mm; axes of one voxel are left out."""
    return float(np.sqrt(sum((n * s) ** 2 for n, s in zip(shape, spacing) if n > 1))) or float(max(spacing))


def in_plane_spacing(shape: Sequence[int], spacing: Sequence[float]) -> float:
    """The larger spacing within the plane of finest resolution, in mm: one voxel's width there."""
    kept = sorted(s for n, s in zip(shape, spacing) if n > 1) or sorted(spacing)
    return float(kept[min(1, len(kept) - 1)])
