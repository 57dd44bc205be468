"""Panels for the figure of overlays: the worst cases of a party under every model."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nnunetv2_stitch.evaluation.comparison import Comparison
from nnunetv2_stitch.evaluation.segmentations import ending_of, reader_for
from nnunetv2_stitch.fileio import read_json

PLACEHOLDER = 999  # mm
AT_ONCE = 6  # models in one figure; more would be too small to see


def worst_panels(comparison: Comparison, party: str, count: int = 3) -> list[list[dict[str, Any]]]:
    """Panels of a party's worst cases, as many lists as it takes figures to show all models.

    Of a 3d case the slice with the most voxels in which any model differs from the reference, across the axis of the
    largest spacing.

    Raises:
        StitchError: a file cannot be read.
        OSError: a file is gone.
    """
    test_set = next(d for d in comparison.datasets if d.name == party)
    contents = read_json(test_set.dataset_json) if test_set.dataset_json else {}
    ending = contents.get("file_ending") or ending_of(test_set.labels_folder)
    references = test_set.cases(ending)
    cases = [c for c in comparison.worst_cases(party, count) if c in references]
    groups = [comparison.model_names[i:i + AT_ONCE] for i in range(0, len(comparison.models), AT_ONCE)]
    figures: list[list[dict[str, Any]]] = [[] for _ in groups]
    if not cases:
        return []
    reader = reader_for(ending, references[cases[0]], contents)
    for case in cases:
        reference, properties = _read(reader.read_seg, references[case])
        masks = {m: _read(reader.read_seg, os.path.join(comparison.predictions[m][party], case + ending))[0]
                 for m in comparison.model_names}
        axis, index = worst_slice(reference, list(masks.values()), properties["spacing"])
        files = test_set.images_of(case, ending)
        image = _read(lambda path: reader.read_images((path,)), files[0])[0] if files else np.zeros_like(reference)

        def cut(voxels: np.ndarray, axis=axis, index=index, properties=properties) -> np.ndarray:
            return upright(voxels.take(index, axis), axis, properties)

        spacing = [s for a, s in enumerate(properties["spacing"]) if a != axis]
        dice = {m: comparison.cases(m, party, comparison.labels.main)[case].dice for m in comparison.model_names}
        where = f", slice {index}" if reference.shape[axis] > 1 else ""
        for panels, group in zip(figures, groups):
            panels.append({
                "title": f"{case}{where}" + ("" if files else "\n(no image)"), "image": cut(image),
                "masks": {"reference": cut(reference), **{comparison.shown(m): cut(masks[m]) for m in group}},
                "dice": {comparison.shown(m): dice[m] for m in group}, "aspect": float(spacing[0] / spacing[1])})
    return figures


def worst_slice(reference: np.ndarray, predictions: Sequence[np.ndarray], spacing: Sequence[float]) -> tuple[int, int]:
    """Axis across which to cut, and the index of the slice with the most wrong voxels."""
    axis = slice_axis(reference.shape, spacing)
    return axis, int(np.argmax(sum(per_slice(p != reference, axis) for p in predictions)))


def slice_axis(shape: Sequence[int], spacing: Sequence[float]) -> int:
    """Axis across which an image is cut: that of the largest spacing, or of the only slice."""
    return int(np.argmax([np.inf if n == 1 else s for n, s in zip(shape, spacing)]))


def per_slice(mask: np.ndarray, axis: int) -> np.ndarray:
    """Number of voxels of a mask in each slice across an axis."""
    return np.count_nonzero(mask, axis=tuple(a for a in range(mask.ndim) if a != axis))


def upright(picture: np.ndarray, axis: int, properties: dict[str, Any]) -> np.ndarray:
    """A slice as a reader of images expects it: front or head up, the patient's left on the right.

    One slice with the 999 mm that stand for "no third axis" carries no patient's directions, whatever its header says;
    it is drawn with its second axis upwards, as the demo's figure. Files without directions (png) stay as stored.
    """
    directions = _directions(properties)
    if directions is None:
        return picture
    if properties["spacing"][axis] >= PLACEHOLDER:
        return np.flip(picture, 0)
    columns = directions.T[::-1]  # patient's left, back and head along array axes z, y, x
    for number, a in enumerate(a for a in range(3) if a != axis):
        main = int(np.argmax(np.abs(columns[a])))
        down_or_right = columns[a][main] > 0 if main < 2 else columns[a][main] < 0
        if not down_or_right:
            picture = np.flip(picture, number)
    return picture


def _directions(properties: dict[str, Any]) -> np.ndarray | None:
    """`(3, 3)`, columns for x, y, z towards the patient's left, back and head, from what nnU-Net's readers keep."""
    stored = np.asarray(properties.get("sitk_stuff", {}).get("direction", ()))
    if stored.size == 9:
        return stored.reshape(3, 3)
    stuff = properties.get("nibabel_stuff", {})
    affine = stuff.get("reoriented_affine", stuff.get("original_affine"))
    # nibabel's axes run to the patient's right and front
    return None if affine is None else np.diag([-1.0, -1.0, 1.0]) @ np.asarray(affine)[:3, :3]


def _read(read: Callable[[Any], tuple[np.ndarray, dict[str, Any]]], path: str) -> tuple[np.ndarray, dict[str, Any]]:
    """First channel `(z, y, x)` and what nnU-Net's reader says of it."""
    if not os.path.isfile(path):
        raise FileNotFoundError(2, "No such file", path)
    voxels, properties = read(path)
    return voxels[0], properties
