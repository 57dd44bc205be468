"""Mean foreground Dice from counts of voxels, as nnU-Net means it, and the refusal to take one where there is none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from nnunetv2.evaluation.evaluate_predictions import compute_tp_fp_fn_tn, region_or_label_to_mask
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunetv2_stitch.errors import StitchError


class NothingToScore(StitchError):
    """No case holds any foreground label in its reference, so nothing can be chosen by Dice. `otherwise`: what can be
    done beside checking the data."""

    def __init__(self, cases: str, otherwise: str = "take other folds with -f"):
        super().__init__(f"{cases} hold no foreground label in their references, so nothing can be chosen by Dice; "
                         f"check the labels and the splits, or {otherwise}")


def counts_by_label(labels: LabelManager, predicted: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Voxels `(labels, 3)` that are true positive, false positive, false negative; both segmentations `(z, y, x)`.
    Counts of parts of an image add up to those of the whole."""
    ignore = reference == labels.ignore_label if labels.has_ignore_label else None
    foreground = labels.foreground_regions if labels.has_regions else labels.foreground_labels
    return np.array([compute_tp_fp_fn_tn(region_or_label_to_mask(reference, label),
                                         region_or_label_to_mask(predicted, label), ignore)[:3]
                     for label in foreground], dtype=np.int64).reshape(-1, 3)


def dice_of_counts(counts: np.ndarray) -> np.ndarray:
    """Dice `(...)` of counts `(..., 3)`. A label that neither side has is NaN, as in nnU-Net."""
    tp, fp, fn = np.moveaxis(counts.astype(float), -1, 0)
    below = 2 * tp + fp + fn
    return np.divide(2 * tp, below, out=np.full(below.shape, np.nan), where=below > 0)


def mean_over_labels(dice: np.ndarray) -> np.ndarray:
    """Mean Dice `(...)` of one case from `(..., labels)`; a label that neither side has is left out, and NaN is the
    mean of nothing."""
    seen = ~np.isnan(dice)
    counts = seen.sum(-1)
    return np.divide(np.where(seen, dice, 0).sum(-1), counts, out=np.full(counts.shape, np.nan), where=counts > 0)


def mean_dice(per_case: np.ndarray) -> float:
    """Mean over cases per label, then over labels, of `(cases, labels)`, as nnU-Net's foreground mean; what no case has
    is left out, and NaN is the mean of nothing."""
    seen = ~np.isnan(per_case)
    counts = seen.sum(0)
    if not counts.any():
        return float("nan")
    return float(np.mean((np.nansum(per_case, 0)[counts > 0]) / counts[counts > 0]))


def dice_of_network(tiler, labels: LabelManager, cases: Iterable[tuple[np.ndarray, np.ndarray]], title: str) -> float:
    """`foreground_dice` of the network in nnU-Net's sliding window.

    Args:
        tiler: see `nnunet_internals.sliding_window`.
        cases: preprocessed, data `(C, z, y, x)` and reference `(1, z, y, x)`.
        title: what the cases are called in messages.
    """
    counts = []
    for data, reference in cases:
        logits = tiler.predict_sliding_window_return_logits(torch.from_numpy(np.asarray(data)).float())
        predicted = labels.convert_logits_to_segmentation(logits.float().cpu())
        counts.append(counts_by_label(labels, np.asarray(predicted), reference[0]))
    return foreground_dice(counts, title)


def foreground_dice(counts: Sequence[np.ndarray], cases: str) -> float:
    """`mean_dice` of the counts `(labels, 3)` of several cases; `cases` names them in the message.

    Raises:
        NothingToScore: no reference holds foreground. What is predicted there is wrong anyway, so a Dice of zero or of
            nothing would tell no two models apart.
    """
    every = np.array(counts, dtype=np.int64).reshape(len(counts), -1, 3)
    if not every[..., [0, 2]].any():
        raise NothingToScore(cases)
    return mean_dice(dice_of_counts(every))
