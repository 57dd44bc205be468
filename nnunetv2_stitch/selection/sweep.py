"""Dice over position: every position of a supernet tried on labelled cases, sharing what comes before it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.evaluation.evaluate_predictions import compute_tp_fp_fn_tn, region_or_label_to_mask
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from torch import fx

from nnunetv2_stitch.stitching.network import StitchedEnsemble
from nnunetv2_stitch.stitching.runner import GraphRunner, is_switch, position_of

MEMORY_FOR_ACCUMULATORS = 2 * 2**30  # bytes


@dataclass(frozen=True)
class Sweep:
    """Mean foreground Dice per position on one party's cases; names no case, so it may travel between parties.

    `ensemble`, `host_head` and `partner_head` are by position: all heads averaged, the host's alone and that of the
    partner there, with both parents' maps averaged at this one position. `parties` names that partner by position.
    `baselines` are the untouched host, partner, further partners (`partner2`, ...) and plain `ensemble`. `r2` is the
    share of variance that each stitch explains, `(to host, to partner)`, measured without labels. Dice is taken on the
    preprocessed grid, with nnU-Net's sliding window and without mirroring.
    """

    fold: int | str
    positions: list[int]
    names: list[str]
    ensemble: list[float]
    host_head: list[float]
    partner_head: list[float]
    baselines: dict[str, float]
    cases: int
    r2: list[tuple[float, float]] = field(default_factory=list)
    parties: list[str] = field(default_factory=list)

    def __post_init__(self):
        if not self.parties:
            object.__setattr__(self, "parties", ["partner"] * len(self.positions))

    def only(self, party: str) -> Sweep:
        """The positions that join the host with one of its partners."""
        kept = [i for i, p in enumerate(self.parties) if p == party]
        by_position = ("positions", "names", "ensemble", "host_head", "partner_head", "r2", "parties")
        return replace(self, **{k: [v[i] for i in kept] if (v := getattr(self, k)) else [] for k in by_position})

    def to_json(self) -> dict:
        return asdict(self)

    def values(self, output: str) -> list[float]:
        """Dice by position of an output: `ensemble`, `host`, or else the partner's there."""
        return {"ensemble": self.ensemble, "host": self.host_head}.get(output, self.partner_head)

    @classmethod
    def from_json(cls, value: dict) -> Sweep:
        return cls(**{**value, "r2": [tuple(r) for r in value.get("r2", [])]})


def sweep_heads(runner: GraphRunner, x: torch.Tensor, positions: Sequence[int]) -> Iterator[tuple]:
    """All heads' logits for a batch `(B, C, *spatial)`, as `(position, host, partner, ...)`; the last position is None,
    for the untouched parents.

    Walks along the untouched network. At each position a copy of the live values takes the averaged maps and runs what
    depends on them: what comes before a position is computed once, and so are the heads of partners that it does not
    reach, which keeps the cost linear in their number. In-order yields keep one remainder in memory at a time.
    """
    switches: dict[int, list[fx.Node]] = {}
    for node in runner.nodes:
        if is_switch(node):
            switches.setdefault(position_of(node)[0], []).append(node)
    heads = runner.output.args
    paths = {h: runner.own_path(h) for h in heads}
    path = set().union(*paths.values())

    def own(_node, value, _other):
        return value

    def average(node, value, other):
        return torch.lerp(value, runner.modules[node].stitch(other), 0.5)

    stop = len(runner.nodes) - 1  # what joins the heads
    untouched = runner.run({runner.input: x}, 0, stop, own, path)
    env, done = {runner.input: x}, 0
    for position in sorted(positions):
        pair = switches[position]
        bridges = [n for s in pair for n in s.args[1:] if n not in path]  # maps brought to the other's grid
        start, end = (runner.index[n] for n in ((bridges or pair)[0], pair[-1]))
        runner.run(env, done, start, own, path)
        done = start
        fork = runner.run(dict(env), start, end + 1, average, {*bridges, *pair})
        reached = [h for h in heads if not paths[h].isdisjoint(pair)]
        runner.run(fork, end + 1, stop, own, set().union(*(paths[h] for h in reached)))
        yield position, *(fork[h] if h in reached else untouched[h] for h in heads)
    yield None, *(untouched[h] for h in heads)


class PositionSweep:
    """Scores all positions of a supernet on preprocessed cases.

    Args:
        network: the supernet with its stitches fitted.
        plans_manager, configuration_manager, dataset_json: nnU-Net's, of the host.
        device: where to compute.
        positions: default all that carry stitches.
    """

    def __init__(self, network: StitchedEnsemble, plans_manager, configuration_manager, dataset_json: dict,
                 device: torch.device, positions: Iterable[int] | None = None):
        self.network, self.device = network.to(device).eval(), device
        self.runner = GraphRunner(network.joined)
        self.positions = list(network.positions if positions is None else positions)
        self.label_manager = plans_manager.get_label_manager(dataset_json)
        self.patch_size = configuration_manager.patch_size
        self.batch_size = configuration_manager.batch_size
        self.tiler = nnUNetPredictor(device=device, allow_tqdm=False,
                                     perform_everything_on_device=device.type == "cuda")
        self.tiler.configuration_manager = configuration_manager

    @property
    def rows(self) -> list[str]:
        """Names of what one case is scored for, in the order of `score_case`."""
        return [*self.network.parties, "ensemble", *(f"ensemble@{p}" for p in self.positions),
                *(f"host@{p}" for p in self.positions), *(f"partner@{p}" for p in self.positions)]

    @torch.inference_mode()
    def score_case(self, data: np.ndarray, segmentation: np.ndarray) -> np.ndarray:
        """Dice `(rows, labels)` of one case; data `(C, z, y, x)`, segmentation `(1, z, y, x)`. A label that neither
        side has is NaN, as in nnU-Net."""
        image, unpad = pad_nd_image(torch.from_numpy(np.ascontiguousarray(data)).float(), self.patch_size, "constant",
                                    {"value": 0}, True, None)
        per_row = 4 * self.label_manager.num_segmentation_heads * int(np.prod(image.shape[1:]))
        chunk = max(1, int(MEMORY_FOR_ACCUMULATORS // (3 * per_row)) - len(self.network.parties) - 1)
        scores: dict[str, np.ndarray] = {}
        for start in range(0, max(1, len(self.positions)), chunk):
            for row, logits in self._predict(image, self.positions[start:start + chunk]).items():
                predicted = self.label_manager.convert_logits_to_segmentation(logits[(slice(None), *unpad[1:])])
                scores[row] = self._dice(np.asarray(predicted.cpu()), segmentation[0])
        return np.stack([scores[row] for row in self.rows])

    def _predict(self, image: torch.Tensor, positions: Sequence[int]) -> dict[str, torch.Tensor]:
        """Sliding-window logits `(K, z, y, x)` per row, up to a factor per voxel that decides nothing."""
        gaussian = compute_gaussian(tuple(self.patch_size), sigma_scale=1 / 8, value_scaling_factor=10,
                                    device=self.device).float()
        slicers = self.tiler._internal_get_sliding_window_slicers(image.shape[1:])
        sums: dict[str, torch.Tensor] = {}

        def add(row, tiles, logits):
            total = sums.setdefault(row, torch.zeros((logits.shape[1], *image.shape[1:])))
            for where, tile in zip(tiles, (logits.float() * gaussian).cpu()):
                total[where] += tile

        autocast = torch.autocast("cuda") if self.device.type == "cuda" else nullcontext()
        with autocast:
            for start in range(0, len(slicers), self.batch_size):
                tiles = slicers[start:start + self.batch_size]
                x = torch.stack([image[where] for where in tiles]).to(self.device)
                for position, *heads in sweep_heads(self.runner, x, positions):
                    every = self.network.heads.ensemble(*heads)
                    by_party = dict(zip(self.network.parties, heads))
                    if position is None:
                        for row, logits in (*by_party.items(), ("ensemble", every)):
                            add(row, tiles, logits)
                    else:
                        add(f"ensemble@{position}", tiles, every)
                        add(f"host@{position}", tiles, by_party["host"])
                        add(f"partner@{position}", tiles, by_party[self.network.party_at(position)])
        return sums

    def _dice(self, predicted: np.ndarray, reference: np.ndarray) -> np.ndarray:
        return dice_by_label(self.label_manager, predicted, reference)

    def summarise(self, fold: int | str, scores: Sequence[np.ndarray], names: Sequence[str],
                  r2: dict[int, tuple[float, float]] | None = None) -> Sweep:
        """Mean over cases per label, then over labels, as nnU-Net's foreground mean."""
        per_label = np.stack(scores)
        with np.errstate(invalid="ignore"):
            counts = (~np.isnan(per_label)).sum(0)
            means = np.where(counts, np.nansum(per_label, 0) / np.maximum(counts, 1), np.nan)
        seen = ~np.isnan(means).all(0)
        value = dict(zip(self.rows, np.nan_to_num(np.nanmean(means[:, seen], 1)).tolist()))
        return Sweep(
            fold=fold, positions=self.positions, names=list(names), cases=len(scores),
            ensemble=[value[f"ensemble@{p}"] for p in self.positions],
            host_head=[value[f"host@{p}"] for p in self.positions],
            partner_head=[value[f"partner@{p}"] for p in self.positions],
            baselines={k: value[k] for k in (*self.network.parties, "ensemble")},
            r2=[r2[p] for p in self.positions] if r2 else [],
            parties=[self.network.party_at(p) for p in self.positions],
        )


def dice_by_label(labels: LabelManager, predicted: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Dice `(labels,)` of one case, both segmentations `(z, y, x)`. A label that neither side has is NaN, as in
    nnU-Net."""
    ignore = reference == labels.ignore_label if labels.has_ignore_label else None
    values = []
    for label in labels.foreground_regions if labels.has_regions else labels.foreground_labels:
        tp, fp, fn, _ = compute_tp_fp_fn_tn(region_or_label_to_mask(reference, label),
                                            region_or_label_to_mask(predicted, label), ignore)
        values.append(2 * tp / (2 * tp + fp + fn) if tp + fp + fn else np.nan)
    return np.array(values)
