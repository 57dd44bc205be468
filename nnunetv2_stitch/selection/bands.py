"""Dice of many answers to one case, without a map of the whole image for any of them.

nnU-Net's sliding window walks along the first spatial axis. What lies behind a tile gets nothing from later ones, so
its sums are turned into counts of voxels and dropped: of each answer only a band is held, a patch thick. Sums are in
half precision and in the order of nnU-Net's own, so the counts are those of its own prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunetv2_stitch.distributed import rank_and_world_size
from nnunetv2_stitch.environment import free_memory
from nnunetv2_stitch.nnunet_internals import mixed_precision, sliding_window, sliding_window_slicers
from nnunetv2_stitch.selection.dice import counts_by_label

SUM = torch.half  # nnU-Net's own type for them
SHARE = 4  # of the free memory a process takes one part: others work beside it, and images are held as well
UNKNOWN = 8 * 2**30  # bytes that count as free where the system does not tell
PIECE = 2**24  # numbers that are looked at together when a band is finished

Answers = Callable[[torch.Tensor, Sequence[str]], Iterable[tuple[str, torch.Tensor]]]


@dataclass(frozen=True)
class Bands:
    """Tiles in batches, and for each batch the rows `(start, stop)` of the first spatial axis that it adds to or that
    earlier batches have added to and later ones may."""

    batches: tuple[tuple, ...]
    rows: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, slicers: Sequence[tuple], batch_size: int) -> Bands:
        """`slicers` are nnU-Net's, in its order: `(channels, first axis, ...)`, the first axis an index or a slice."""
        batches = [tuple(slicers[i:i + batch_size]) for i in range(0, len(slicers), batch_size)]
        ends = np.maximum.accumulate([max(_rows(s)[1] for s in batch) for batch in batches]).tolist()
        return cls(tuple(batches), tuple((_rows(batch[0])[0], end) for batch, end in zip(batches, ends)))

    @property
    def width(self) -> int:
        return max(stop - start for start, stop in self.rows)


def _rows(slicer: tuple) -> tuple[int, int]:
    first = slicer[1]
    return (first.start, first.stop) if isinstance(first, slice) else (first, first + 1)


def bytes_per_answer(bands: Bands, labels: int, shape: Sequence[int]) -> int:
    """Of one answer's sums for a padded image of a spatial `shape`."""
    return SUM.itemsize * labels * bands.width * int(np.prod(shape[1:]))


def room_for_sums() -> int:
    """Bytes that this process lets sums take: a part of what is free now."""
    free = free_memory()
    return (UNKNOWN if free is None else free) // SHARE // rank_and_world_size()[1]


class BandedDice:
    """Counts and Dice of many answers to the same image, with nnU-Net's sliding window and without mirroring.

    Args:
        configuration_manager, labels: nnU-Net's, of the host.
        device: where tiles are computed. Sums are kept in main memory.
    """

    def __init__(self, configuration_manager, labels: LabelManager, device: torch.device):
        self.labels, self.device = labels, device
        self.patch_size = configuration_manager.patch_size
        self.batch_size = configuration_manager.batch_size
        self.tiler = sliding_window(configuration_manager, labels, device)

    def bands(self, shape: Sequence[int]) -> Bands:
        """Of a padded image."""
        return Bands.of(sliding_window_slicers(shape, self.patch_size), self.batch_size)

    @torch.inference_mode()
    def count(self, data: np.ndarray, segmentation: np.ndarray, rows: Sequence[str], answers: Answers,
              ) -> dict[str, np.ndarray]:
        """Counts `(labels, 3)` of every answer in `rows`, as `dice.counts_by_label`.

        Args:
            data: `(C, z, y, x)`, preprocessed; segmentation: `(1, z, y, x)`.
            answers: gives `(row, logits (B, K, *patch))` for tiles `(B, C, *patch)` and the rows that are wanted. It is
                called again for the same tiles where the sums of all rows do not fit into `room_for_sums`.
        """
        image, unpad = pad_nd_image(torch.from_numpy(np.ascontiguousarray(data)).float(), self.patch_size, "constant",
                                    {"value": 0}, True, None)
        bands, shape = self.bands(image.shape[1:]), image.shape[1:]
        each = bytes_per_answer(bands, self.labels.num_segmentation_heads, shape)
        together = max(1, room_for_sums() // each - 1)  # one more while a band moves on
        gaussian = compute_gaussian(tuple(self.patch_size), sigma_scale=1 / 8, value_scaling_factor=10,
                                    device=self.device)
        found: dict[str, np.ndarray] = {}
        with mixed_precision(self.device):
            for start in range(0, len(rows), together):
                wanted = rows[start:start + together]
                sums = _Sums(bands, self.labels, shape, unpad[1:], segmentation[0])
                for tiles, (first, _) in zip(bands.batches, bands.rows):
                    sums.move_to(first)
                    sums.weigh(tiles, gaussian.cpu())
                    x = torch.stack([image[where] for where in tiles]).to(self.device)
                    for row, logits in answers(x, wanted):
                        sums.add(row, tiles, (logits * gaussian).cpu())
                found |= sums.finish()
        return found


class _Sums:
    """Of some answers, in a band that moves along the image."""

    def __init__(self, bands: Bands, labels: LabelManager, shape: Sequence[int], unpad: Sequence[slice],
                 reference: np.ndarray):
        self.labels, self.length, self.unpad, self.reference = labels, shape[0], unpad, reference
        self.band = (bands.width, *shape[1:])
        self.weights = torch.zeros(self.band, dtype=SUM)
        self.sums: dict[str, torch.Tensor] = {}
        self.counts: dict[str, np.ndarray] = {}
        self.broken: set[str] = set()
        self.start = 0

    def weigh(self, tiles: Sequence[tuple], gaussian: torch.Tensor) -> None:
        for where in tiles:
            self.weights[self._within(where)[1:]] += gaussian

    def add(self, row: str, tiles: Sequence[tuple], weighted: torch.Tensor) -> None:
        """Logits `(B, K, *patch)` times their weights."""
        if row not in self.sums:
            self.sums[row] = torch.zeros((weighted.shape[1], *self.band), dtype=SUM)
        for where, tile in zip(tiles, weighted):
            self.sums[row][self._within(where)] += tile

    def _within(self, where: tuple) -> tuple:
        first = where[1]
        moved = slice(first.start - self.start, first.stop - self.start) if isinstance(first, slice) \
            else first - self.start
        return (where[0], moved, *where[2:])

    def move_to(self, start: int) -> None:
        """Count what lies before `start`, and drop it."""
        done = start - self.start
        if not done:
            return
        for row in self.sums:
            self._count(row, done)
            self.sums[row] = _moved(self.sums[row], done, 1)
        self.weights = _moved(self.weights, done, 0)
        self.start = start

    def finish(self) -> dict[str, np.ndarray]:
        self.move_to(self.length)
        for row in self.broken:  # nothing of such an answer counts as right
            tp, fp, fn = self.counts[row].T
            self.counts[row] = np.stack([0 * tp, fp, tp + fn], 1)
        return self.counts

    def _count(self, row: str, done: int) -> None:
        total, before = self.sums[row], self.unpad[0].start or 0
        step = max(1, PIECE // total[:, 0].numel())
        for first in range(0, done, step):
            # Rows of the image itself, without what it was padded with.
            low = max(self.start + first, before)
            high = min(self.start + min(first + step, done), before + len(self.reference))
            if low >= high:
                continue
            here = slice(low - self.start, high - self.start)
            logits = (total[:, here] / self.weights[here])[(slice(None), slice(None), *self.unpad[1:])].float()
            if not torch.isfinite(logits).all():
                self.broken.add(row)
            predicted = np.asarray(self.labels.convert_logits_to_segmentation(logits))
            counts = counts_by_label(self.labels, predicted, self.reference[low - before:high - before])
            self.counts[row] = self.counts.get(row, 0) + counts


def _moved(values: torch.Tensor, done: int, axis: int) -> torch.Tensor:
    moved = torch.zeros_like(values)
    left = values.shape[axis] - done
    if left > 0:
        moved.narrow(axis, 0, left).copy_(values.narrow(axis, done, left))
    return moved
