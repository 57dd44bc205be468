"""Merge or stitch? Weights can only be mixed where the way between the members meets no loss barrier (linear
mode connectivity).

Networks of a common start usually lie in one basin; networks that were initialised independently do not, whatever their
quality (Frankle et al., ICML 2020). Two measurements tell them apart: the loss on the line between members, and how
alike their weights are. The two limits are our own choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

import torch

from nnunetv2_stitch.merging.atlas import Atlas

POINTS = (0.25, 0.5, 0.75)
BARRIER_LIMIT = 0.1  # in units of the loss; nnU-Net's falls by 1 to 2 in a training
ALIKE_LIMIT = 0.2  # cosine of independent networks is 0 within a few hundredths
ALL_PAIRS = 4  # beyond so many members only the lines from the first are walked
MERGE, STITCH = "merge", "stitch"


@dataclass(frozen=True)
class Way:
    """The way between two members. `losses` at `(0, *POINTS, 1)`; empty where none was measured. `barrier`: the loss
    barrier, by how much the loss rises above the straight line between its ends. `alike`: cosine of the two members'
    weight matrices. `delta_cosine`: cosine of their deltas from the base, None without one, since deltas from a mean
    are opposed by construction."""

    first: str
    second: str
    losses: tuple[float, ...]
    barrier: float
    alike: float
    delta_cosine: float | None = None


@dataclass(frozen=True)
class MergeCheck:
    """`verdict` is `merge` or `stitch`, `sentence` says it with the reason; `note`: why no loss was measured."""

    verdict: str
    sentence: str
    lines: tuple[Way, ...] = ()
    note: str = ""

    def to_json(self) -> dict:
        return asdict(self)

    def table(self) -> list[dict]:
        """A row per line, for `evaluation.tables`."""
        points = (0.0, *POINTS, 1.0)
        return [{"line": f"{x.first} - {x.second}", **{f"loss at {t:g}": v for t, v in zip(points, x.losses)},
                 **({"loss barrier": x.barrier} if x.losses else {}), "cosine of weights": x.alike,
                 **({} if x.delta_cosine is None else {"cosine of deltas": x.delta_cosine})} for x in self.lines]


def check_merge(atlas: Atlas, loss_of: Callable[[dict[str, torch.Tensor]], float] | None = None) -> MergeCheck:
    """Measure the lines between members and judge.

    Args:
        loss_of: the loss of parameters by name, on a few fixed batches; None judges by the weights alone.
    """
    pairs = list(combinations(range(len(atlas)), 2)) if len(atlas) <= ALL_PAIRS else \
        [(0, i) for i in range(1, len(atlas))]
    ends = [loss_of(m) for m in atlas.members] if loss_of else []
    lines = []
    for i, j in pairs:
        losses: tuple[float, ...] = ()
        if loss_of:
            losses = (ends[i], *(loss_of(between(atlas, i, j, t)) for t in POINTS), ends[j])
        delta = cosine(*(_minus(atlas.members[k], atlas.base) for k in (i, j))) if atlas.has_base else None
        lines.append(Way(atlas.labels[i], atlas.labels[j], losses, loss_barrier(losses),
                         cosine(*(_matrices(atlas.members[k]) for k in (i, j))), delta))
    return judge(lines)


def judge(lines: Sequence[Way]) -> MergeCheck:
    """The verdict over all lines; the worst one counts."""
    unlike = min(lines, key=lambda x: x.alike)
    steep = max(lines, key=lambda x: x.barrier if x.barrier == x.barrier else float("inf"))  # NaN is the worst
    if unlike.alike < ALIKE_LIMIT:
        return MergeCheck(STITCH, f"Stitch, do not merge: the weights of {unlike.first} and {unlike.second} have "
                          f"nothing in common (cosine {unlike.alike:.2f}), so they were not trained from one common "
                          f"start.", tuple(lines))
    if not steep.barrier <= BARRIER_LIMIT:  # also NaN
        return MergeCheck(STITCH, f"Stitch, do not merge: between {steep.first} and {steep.second} the loss rises by "
                          f"{steep.barrier:.2f} above that of the models, so what is between them answers worse than "
                          f"they do.", tuple(lines))
    measured = f"the loss between them rises by {steep.barrier:.2f} at most" if steep.losses else \
        "no data of the centre were there to measure the loss between them"
    return MergeCheck(MERGE, f"Merge: the models share a common start (cosine of weights {unlike.alike:.2f}) and "
                      f"{measured}.", tuple(lines))


def between(atlas: Atlas, i: int, j: int, t: float) -> dict[str, torch.Tensor]:
    """Parameters at `t` on the line from member `i` (0) to member `j` (1)."""
    return {n: torch.lerp(atlas.members[i][n], atlas.members[j][n], t) for n in atlas.names}


def loss_barrier(losses: Sequence[float]) -> float:
    """Largest rise of the inner losses above the straight line between the outer two; 0 if there is none."""
    if not losses:
        return 0.0
    rises = [loss - ((1 - t) * losses[0] + t * losses[-1]) for t, loss in zip(POINTS, losses[1:-1])]
    return float("nan") if any(r != r for r in rises) else max(0.0, *rises)


def cosine(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> float:
    """Of all tensors together, in float64; 0 where either is zero."""
    dot, aa, bb = (sum(float((x.double() * y.double()).sum()) for x, y in zip(*p)) for p in ((a, b), (a, a), (b, b)))
    return dot / (aa * bb) ** 0.5 if aa and bb else 0.0


def _matrices(weights: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Kernels only: scales of norms start at one in every network, which says nothing of where they come from."""
    return [v for v in weights.values() if v.ndim > 1]


def _minus(weights: dict[str, torch.Tensor], base: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    return [v - base[n] for n, v in weights.items()]
