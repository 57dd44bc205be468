"""Features of preprocessed cases, tile by tile, as the sliding window of a prediction sees them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import chain, combinations

import numpy as np
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

from nnunetv2_stitch.gating.signature import Signature
from nnunetv2_stitch.nnunet_internals import sliding_window_slicers
from nnunetv2_stitch.parties.preprocessed import case_names, split_of_fold

MOST_TILES = 2000  # of a signature: a covariance of 64 features needs no more
TILES_PER_CASE = 16  # at most, spread over the case: tiles of one case resemble each other
Features = Callable[[torch.Tensor], torch.Tensor]


def signature_of(features: Features, folder: str, configuration_manager, fold: int | str, device: torch.device,
                 mirroring_axes: Sequence[int] | None = None) -> Signature:
    """The signature of a preprocessed dataset's fold: density of its training cases, quantiles of its validation cases.

    Args:
        features: tiles `(B, C, *patch)` -> `(B, F)`.
        folder: the dataset's, in nnUNet_preprocessed.
        configuration_manager: nnU-Net's, of the plans that it was preprocessed with.
        mirroring_axes: spatial axes along which a prediction mirrors its tiles; mirrored tiles are looked at, too.

    Raises:
        StitchError: no preprocessed cases, or too few.
    """
    data = os.path.join(folder, configuration_manager.data_identifier)
    parts = split_of_fold(folder, fold, case_names(data))
    return Signature.of(*(tile_features(features, images(data, names), configuration_manager, device,
                                        max(1, min(TILES_PER_CASE, MOST_TILES // max(1, len(names)))), mirroring_axes)
                          for names in parts))


def images(folder: str, names: Sequence[str]) -> Iterator[np.ndarray]:
    """Preprocessed images `(C, z, y, x)`, one at a time."""
    dataset = infer_dataset_class(folder)(folder, list(names))
    return (dataset.load_case(name)[0][:] for name in sorted(names))


@torch.inference_mode()
def tile_features(features: Features, cases: Iterable[np.ndarray], configuration_manager,
                  device: torch.device, most: int = TILES_PER_CASE,
                  mirroring_axes: Sequence[int] | None = None) -> np.ndarray:
    """Features `(tiles, F)` of all cases, at most so many tiles of each, in float64.

    Args:
        features: tiles `(B, C, *patch)` -> `(B, F)`.
        cases: preprocessed images `(C, z, y, x)`.
        most: tiles of a case, spread over it.
        mirroring_axes: spatial axes along which a prediction mirrors; mirrored tiles are looked at, too.
    """
    axes = tuple(a + 2 for a in mirroring_axes or ())
    mirrored = list(chain.from_iterable(combinations(axes, n) for n in range(len(axes) + 1)))
    found = []
    for image in cases:
        padded = pad_nd_image(torch.from_numpy(np.ascontiguousarray(image)).float(), configuration_manager.patch_size,
                              "constant", {"value": 0}, True, None)[0]
        slicers = sliding_window_slicers(padded.shape[1:], configuration_manager.patch_size)
        chosen = np.unique(np.linspace(0, len(slicers) - 1, min(len(slicers), most)).round().astype(int))
        with torch.autocast("cuda") if device.type == "cuda" else nullcontext():
            for tile in (padded[slicers[i]][None].to(device) for i in chosen):
                found += [features(tile.flip(m) if m else tile).double().cpu().numpy() for m in mirrored]
    return np.concatenate(found) if found else np.empty((0, 0))
