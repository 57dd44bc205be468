"""Reading segmentations with nnU-Net's own readers, which need no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.evaluation.grids import Grid, grid_of
from nnunetv2_stitch.folders import files_in


def file_endings() -> list[str]:
    """All that nnU-Net reads, longest first."""
    from nnunetv2.imageio.reader_writer_registry import LIST_OF_IO_CLASSES
    endings = {ending for kind in LIST_OF_IO_CLASSES for ending in kind.supported_file_endings}
    return sorted(endings, key=lambda ending: (-len(ending), ending))


def ending_of(folder: str) -> str:
    """The one ending that nnU-Net can read among a folder's files.

    Raises:
        StitchError: none, or several.
    """
    endings = file_endings()
    kinds = (next((e for e in endings if n.endswith(e)), "") for n in files_in(folder))
    found = sorted(set(kinds) - {""})
    if len(found) != 1:
        what = "files of several kinds: " + ", ".join(found) if found else "no image file"
        raise StitchError(f"{folder} holds {what}; nnU-Net reads {', '.join(endings)}, one kind per dataset")
    return found[0]


def reader_for(ending: str, example: str, dataset_json: Mapping[str, Any] | None = None) -> Any:
    """nnU-Net's reader: the one that dataset.json names, or the first for this ending that can read the example.

    Raises:
        StitchError: none can.
    """
    from nnunetv2.imageio.reader_writer_registry import LIST_OF_IO_CLASSES

    named = (dataset_json or {}).get("overwrite_image_reader_writer")
    kinds = [kind for kind in LIST_OF_IO_CLASSES if ending.lower() in kind.supported_file_endings]
    said = f"nnU-Net has no reader for {ending}"
    for kind in sorted(kinds, key=lambda kind: kind.__name__ != named):
        try:
            kind().read_seg(example)
        except Exception as error:  # whatever the libraries below raise means that this reader is not the one
            said = _first_line(error)
            continue
        return kind()
    raise StitchError(f"{example} cannot be read ({said}); check the file, or copy it again from its source")


def read_segmentation(path: str, reader: Any) -> tuple[np.ndarray, Grid]:
    """Labels `(z, y, x)` as integers, and where they lie; 2d images have one slice.

    Raises:
        StitchError: unreadable, of several channels, or not of whole numbers.
    """
    try:
        voxels, properties = reader.read_seg(path)
    except Exception as error:
        raise StitchError(f"{path} cannot be read ({_first_line(error)}); copy it again from its source") from error
    if len(voxels) != 1:
        raise StitchError(f"{path} has {len(voxels)} channels, a segmentation has one; save it as a label map")
    labels = np.rint(voxels[0])
    if not np.array_equal(labels, voxels[0]):
        raise StitchError(f"{path} holds values between whole numbers, so it is no segmentation; give label maps, not "
                          f"probabilities")
    return labels.astype(np.int32), grid_of(properties)


def require_same_grid(reference: np.ndarray, prediction: np.ndarray, reference_file: str, prediction_file: str) -> None:
    """Raises StitchError, naming both files, if two segmentations differ in shape."""
    if reference.shape != prediction.shape:
        raise StitchError(f"{prediction_file} has shape {_times(prediction.shape)}, its reference {reference_file} "
                          f"{_times(reference.shape)} (z, y, x); predict on the image that the reference belongs to")


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:120]
