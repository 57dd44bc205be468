"""What a stitched model says of one preprocessed case, in the image's own geometry: answers of its parties, where they
differ, and who had which share."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import combinations
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape

from nnunetv2_stitch.inference.images import ImagePredictor
from nnunetv2_stitch.inference.shares import SharesAsMaps

if TYPE_CHECKING:
    from nnunetv2_stitch.inference.predictor import StitchedPredictor


def preprocessed(predictor: StitchedPredictor, files: Sequence[str]) -> tuple[np.ndarray, dict[str, Any]]:
    """Data `(C, *spatial)` and properties of a case, as nnU-Net makes them of its channels' files."""
    preprocessor = predictor.configuration_manager.preprocessor_class(verbose=False)
    data, _, properties = preprocessor.run_case(list(files), None, predictor.plans_manager,
                                                predictor.configuration_manager, predictor.dataset_json)
    return data, properties


def segmentation(predictor: StitchedPredictor, data: np.ndarray, properties: dict[str, Any]) -> np.ndarray:
    """Labels `(z, y, x)`: the voxels that nnU-Net writes for this case."""
    return _converted(predictor, data, properties, False)


def segmentation_and_probabilities(predictor: StitchedPredictor, data: np.ndarray,
                                   properties: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Also the probabilities `(classes or regions, z, y, x)`."""
    labels, probabilities = _converted(predictor, data, properties, True)
    return labels, np.asarray(probabilities)


def disagreement(probabilities: Sequence[np.ndarray], regions: bool) -> np.ndarray:
    """How far apart at least two parties' probabilities are, in percent `(z, y, x)`: half the sum over classes of the
    absolute difference (total variation), or the largest difference over regions. Of several parties, the two that
    differ most at a voxel count."""
    pairs = (np.abs(a - b) for a, b in combinations(probabilities, 2))
    return np.round(100 * np.max([d.max(0) if regions else d.sum(0) / 2 for d in pairs], axis=0)).astype(np.uint8)


def share_maps(predictor: StitchedPredictor, data: np.ndarray, properties: dict[str, Any],
               parties: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Each party's share of a gated model's answer, in percent `(z, y, x)`; 0 outside the box that nnU-Net crops to.

    Args:
        parties: those that are wanted; all if None.
    """
    maps, known = copy.copy(predictor), list(predictor.uncompiled.parties)
    maps.network = SharesAsMaps(predictor.uncompiled)
    maps.label_manager = SimpleNamespace(num_segmentation_heads=len(known))
    percent = SimpleNamespace(foreground_labels=[1], convert_logits_to_segmentation=lambda share: np.round(
        100 * np.asarray(share[0])).clip(0, 100).astype(np.uint8))
    shares = ImagePredictor.predict_logits_from_preprocessed_data(maps, torch.from_numpy(data)).float().cpu()
    found: Mapping[str, torch.Tensor] = dict(zip(known, shares.split(1)))
    return {p: convert_predicted_logits_to_segmentation_with_correct_shape(
        found[p], predictor.plans_manager, predictor.configuration_manager, percent, properties)
        for p in (known if parties is None else parties)}


def _converted(predictor: StitchedPredictor, data: np.ndarray, properties: dict[str, Any], probabilities: bool):
    logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data)).cpu()
    return convert_predicted_logits_to_segmentation_with_correct_shape(
        logits, predictor.plans_manager, predictor.configuration_manager, predictor.label_manager, properties,
        return_probabilities=probabilities)
