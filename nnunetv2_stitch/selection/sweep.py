"""Dice over position: every position of a supernet tried on labelled cases, sharing what comes before it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch
from torch import fx

from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.selection.bands import BandedDice
from nnunetv2_stitch.selection.dice import dice_of_counts, mean_dice
from nnunetv2_stitch.stitching.network import StitchedEnsemble
from nnunetv2_stitch.stitching.runner import GraphRunner, is_switch, position_of

HEADS = ("ensemble", "host_head", "partner_head")
REFERENCE = "reference"
SWEEP_FILE = "sweep.json"  # of a fold


@dataclass(frozen=True)
class Sweep:
    """Mean foreground Dice per position on one party's cases; names no case, so it may travel between parties.

    `ensemble`, `host_head` and `partner_head` are by position: all heads averaged, the host's alone and that of the
    partner there, with both parents' maps averaged at this one position. `parties` names that partner by position.
    `baselines` are the untouched host, partner, further partners (`partner2`, ...) and plain `ensemble`. `r2` is the
    share of variance that each stitch explains, `(to host, to partner)`, measured without labels. Dice is taken on the
    preprocessed grid, with nnU-Net's sliding window and without mirroring. Where no case holds any foreground label
    every Dice is NaN, null in JSON: nothing can be chosen by it (`scorable`).
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

    @property
    def scorable(self) -> bool:
        """Whether its numbers are numbers, so that something can be chosen by them."""
        return all(map(math.isfinite, (*(v for h in HEADS for v in getattr(self, h)), *self.baselines.values())))

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
        if not isinstance(value, dict):
            raise TypeError(f"{type(value).__name__} instead of fields")
        known = {h: [_number(v) for v in value[h]] for h in HEADS if isinstance(value.get(h), list)}
        if isinstance(value.get("baselines"), dict):
            known["baselines"] = {k: _number(v) for k, v in value["baselines"].items()}
        return cls(**{**value, **known, "r2": [tuple(map(_number, r)) for r in value.get("r2", [])]})


def _number(value):
    return math.nan if value is None else value


def sweeps_of(model_folder: str, folds: Sequence[int | str]) -> list[Sweep]:
    """Dice over position of trained folds, from their training."""
    return [Sweep.from_json(read_json(os.path.join(model_folder, f"fold_{f}", SWEEP_FILE))) for f in folds]


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
        self.banded = BandedDice(configuration_manager, self.label_manager, device)

    @property
    def rows(self) -> list[str]:
        """Names of what one case is scored for, in the order of `score_case`. The last is what the reference itself
        would get: 1, or NaN where it lacks a label."""
        return [*self.network.parties, "ensemble", *(f"ensemble@{p}" for p in self.positions),
                *(f"host@{p}" for p in self.positions), *(f"partner@{p}" for p in self.positions), REFERENCE]

    def score_case(self, data: np.ndarray, segmentation: np.ndarray) -> np.ndarray:
        """Dice `(rows, labels)` of one case; data `(C, z, y, x)`, segmentation `(1, z, y, x)`. A label that neither
        side has is NaN, as in nnU-Net. An answer that is not finite somewhere gets no Dice above 0."""
        # In this order rows of one position are summed together, where not all can be.
        rows = [*self.network.parties, "ensemble",
                *(f"{head}@{p}" for p in self.positions for head in ("ensemble", "host", "partner"))]
        counts = self.banded.count(data, segmentation, rows, self._answers)
        positive = counts["ensemble"][:, [0, 2]].sum(1)
        dice = {row: dice_of_counts(found) for row, found in counts.items()}
        return np.stack([np.where(positive, 1.0, np.nan) if row == REFERENCE else dice[row] for row in self.rows])

    def _answers(self, x: torch.Tensor, rows: Sequence[str]) -> Iterator[tuple[str, torch.Tensor]]:
        """Logits `(B, K, *patch)` of the rows that are wanted."""
        wanted = set(rows)
        for position, *heads in sweep_heads(self.runner, x, [p for p in self.positions if any(
                f"{head}@{p}" in wanted for head in ("ensemble", "host", "partner"))]):
            by_party = dict(zip(self.network.parties, heads))
            if position is None:
                found = {party: party for party in by_party}
            else:
                found = {f"host@{position}": "host", f"partner@{position}": self.network.party_at(position)}
            yield from ((row, by_party[party]) for row, party in found.items() if row in wanted)
            both = "ensemble" if position is None else f"ensemble@{position}"
            if both in wanted:
                yield both, self.network.heads.ensemble(*heads)

    def summarise(self, fold: int | str, scores: Sequence[np.ndarray], names: Sequence[str],
                  r2: dict[int, tuple[float, float]] | None = None) -> Sweep:
        """Mean over cases per label, then over labels, as nnU-Net's foreground mean; NaN for all where no case's
        reference holds any label."""
        per_label = np.stack(scores) if len(scores) else np.full((1, len(self.rows), 1), np.nan)
        found = dict(zip(self.rows, np.moveaxis(per_label, 1, 0)))
        known = not np.isnan(found.pop(REFERENCE)).all()
        value = {row: mean_dice(dice) if known else math.nan for row, dice in found.items()}
        return Sweep(
            fold=fold, positions=self.positions, names=list(names), cases=len(scores),
            ensemble=[value[f"ensemble@{p}"] for p in self.positions],
            host_head=[value[f"host@{p}"] for p in self.positions],
            partner_head=[value[f"partner@{p}"] for p in self.positions],
            baselines={k: value[k] for k in (*self.network.parties, "ensemble")},
            r2=[r2[p] for p in self.positions] if r2 else [],
            parties=[self.network.party_at(p) for p in self.positions],
        )
