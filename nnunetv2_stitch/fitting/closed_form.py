"""Direct matching in closed form: each stitch is a separate linear regression, solved from one pass over the data.

Known from the paper: direct matching fits a stitch to the partner's features at the match alone. Ours: the exact
least-squares solution from moments instead of gradient descent, so there is no learning rate and no epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from nnunetv2_stitch.distributed import all_reduce, in_group, rank_and_world_size
from nnunetv2_stitch.stitching.network import StitchedEnsemble
from nnunetv2_stitch.stitching.runner import GraphRunner, is_switch, position_of
from nnunetv2_stitch.stitching.setting import SIDES, Setting

PIECE = 8192  # pixels whose products are summed in float32 before float64 takes over; fits a CPU's cache
PIECES_ON_GPU = 64  # at a time: few kernels, and 64 channels of them are 128 MiB


class Moments:
    """Running first and second moments of `[a; b]` over all pixels of all batches.

    Products are taken in float32 whatever precision the maps and the context have, and summed in float64 every `PIECE`
    pixels. Values are shifted by the first batch's means before they are multiplied, so that a large mean does not
    swamp a small variance. The sums stay on the maps' device, so that no batch waits for another (on the CPU for MPS,
    which has no float64).
    """

    def __init__(self, channels_a: int, channels_b: int):
        self.split = channels_a
        self.count = 0.0
        self.shift: torch.Tensor | None = None
        self.first = torch.zeros(channels_a + channels_b, dtype=torch.float64)
        self.second = torch.zeros(channels_a + channels_b, channels_a + channels_b, dtype=torch.float64)

    def update(self, a: torch.Tensor, b: torch.Tensor) -> None:
        """Add maps `(B, Ca, *spatial)` and `(B, Cb, *spatial)` of the same images, or vectors of both."""
        maps = [m.detach().reshape(*m.shape[:2], -1).transpose(0, 1) for m in (a, b)]
        if self.shift is None:
            self.shift = torch.cat([m.mean((1, 2), dtype=torch.float32) for m in maps])[:, None]
        self.shift = self.shift.to(a.device)
        kept_on = "cpu" if a.device.type == "mps" else a.device
        self.first, self.second = self.first.to(kept_on), self.second.to(kept_on)
        self.count += maps[0][0].numel()
        with torch.autocast(a.device.type, enabled=False):  # mixed precision would take the products in half precision
            most = PIECE * (1 if a.device.type == "cpu" else PIECES_ON_GPU)
            for values in _centred(maps, self.shift.split([len(m) for m in maps]), most):
                self._add(values)
        self.second[:self.split, self.split:] = self.second[self.split:, :self.split].T

    def _add(self, values: torch.Tensor) -> None:
        """Add `(pieces, Ca + Cb, PIECE)`, leaving out the block that mirrors another."""
        a, b = values[:, :self.split], values[:, self.split:]
        self.first += _in_float64(values.sum(2), self.first)
        self.second[:, :self.split] += _in_float64(values @ a.mT, self.second)
        self.second[self.split:, self.split:] += _in_float64(b @ b.mT, self.second)

    def reduce(self) -> None:
        """Add up the moments of all processes, around the mean of their shifts; one float64 tensor travels."""
        first, second, shift = self.first.cpu(), self.second.cpu(), self._own_shift()
        common = all_reduce(shift) / rank_and_world_size()[1]
        apart = shift - common
        cross = torch.outer(first, apart)
        second = second + cross + cross.T + self.count * torch.outer(apart, apart)
        count = torch.tensor([self.count], dtype=torch.float64)
        total = all_reduce(torch.cat([count, first + self.count * apart, second.flatten()]))
        n, self.shift = len(first), common[:, None]
        self.count, self.first, self.second = float(total[0]), total[1:n + 1], total[n + 1:].reshape(n, n)

    def _own_shift(self) -> torch.Tensor:
        return torch.zeros_like(self.first.cpu()) if self.shift is None else self.shift[:, 0].cpu().double()

    def solve(self, ridge: float = 1e-6) -> tuple[Affine, Affine]:
        """The regressions b -> a and a -> b, in this order."""
        mean, covariance = self.mean_and_covariance()
        a, b = slice(0, self.split), slice(self.split, None)
        return tuple(_regress(covariance, mean, source, target, ridge) for source, target in ((b, a), (a, b)))

    def mean_and_covariance(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Of `[a; b]`, in float64 on the CPU."""
        mean = self.first.cpu() / max(self.count, 1)
        covariance = self.second.cpu() / max(self.count, 1) - torch.outer(mean, mean)
        return mean + self._own_shift(), covariance


def _centred(maps: Sequence[torch.Tensor], shifts: Sequence[torch.Tensor], most: int) -> Iterator[torch.Tensor]:
    """Maps `(C, B, pixels)` less their shifts `(C, 1)`, as `(pieces, sum of C, PIECE)` in float32, zeros at the end;
    `most` pixels at a time.

    One buffer is filled again and again: on the CPU it stays in the cache, on a GPU it bounds the memory.
    """
    _, images, pixels = maps[0].shape
    together, length = min(images, max(1, most // pixels)), min(pixels, most)  # several whole images, or a part of one
    pieces = -(-together * length // PIECE)
    width = together * length if pieces == 1 else pieces * PIECE
    buffer = torch.empty(sum(map(len, maps)), width, device=maps[0].device)
    for image in range(0, images, together):
        for start in range(0, pixels, length):
            parts = [m[:, image:image + together, start:start + length] for m in maps]
            used = parts[0][0].numel()
            buffer[:, used:] = 0
            for part, shift, room in zip(parts, shifts, buffer[:, :used].split([len(m) for m in maps])):
                torch.sub(part, shift[:, None], out=room.unflatten(1, part.shape[1:]))
            yield buffer.unflatten(1, (pieces, -1)).transpose(0, 1)


def _in_float64(parts: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The sum over dim 0."""
    return parts.to(like.device).sum(0, dtype=torch.float64)


@dataclass(frozen=True)
class Affine:
    """`target = weight @ source + bias`; weight `(C_target, C_source)`. `r2` is the explained share of the target's
    variance over all channels, 1 for a target without variance."""

    weight: torch.Tensor
    bias: torch.Tensor
    r2: float


def _regress(covariance: torch.Tensor, mean: torch.Tensor, source: slice, target: slice,
             ridge: float) -> Affine:
    """Ridge relative to the mean variance of the source; only there to keep dead channels solvable."""
    xx, yx, yy = covariance[source, source], covariance[target, source], covariance[target, target].diagonal().sum()
    scale = xx.diagonal().mean().clamp_min(1e-12)
    regular = xx + ridge * scale * torch.eye(len(xx), dtype=xx.dtype)
    weight = torch.linalg.solve(regular, yx.T).T
    residual = yy - 2 * (weight * yx).sum() + (weight @ xx * weight).sum()
    r2 = 1.0 if yy <= 0 else float((1 - residual / yy).clamp_max(1))
    return Affine(weight.float(), (mean[target] - weight @ mean[source]).float(), r2)


class DirectMatching:
    """Accumulates the moments of all matches of a supernet, batch by batch, then solves for every stitch."""

    def __init__(self, network: StitchedEnsemble, ridge: float = 1e-6):
        self.network, self.ridge = network, ridge
        self.runner = GraphRunner(network.joined)
        self.stop = 1 + max((i for i, n in enumerate(self.runner.nodes) if is_switch(n)), default=-1)
        # One set of moments serves both directions, unless either map has to be brought to the other's grid.
        self.moments = {(p, side): Moments(*(network.matches[p][f"{s}_channels"] for s in _own_first(side)))
                        for p in network.positions for side in (SIDES if network.other_grid_at(p) else SIDES[:1])}

    @torch.no_grad()
    def update(self, x: torch.Tensor) -> None:
        """Add the features of one batch `(B, C, *spatial)`; the parents run untouched."""

        def on_switch(node, own, other):
            moments = self.moments.get(position_of(node))
            if moments is not None:
                moments.update(own, other)
            return own

        self.runner.run({self.runner.input: x}, 0, self.stop, on_switch)

    def reduce(self) -> None:
        """Add up the moments of all processes of a distributed training."""
        for moments in self.moments.values() if in_group() else ():
            moments.reduce()

    def solve(self) -> dict[int, tuple[float, float]]:
        """Set every stitch to its least-squares solution; returns R^2 per position as `(to host, to partner)`."""
        scores: dict[int, dict[str, float]] = {p: {} for p in self.network.positions}
        for (position, own), moments in self.moments.items():
            for side, solution in zip(_own_first(own), moments.solve(self.ridge)):
                if side == own or (position, side) not in self.moments:
                    self.network.switch(position, side).set_affine(solution.weight, solution.bias)
                    scores[position][side] = solution.r2
        return {p: tuple(found[s] for s in SIDES) for p, found in scores.items()}


def _own_first(side: str) -> tuple[str, str]:
    return SIDES if side == SIDES[0] else SIDES[::-1]


def all_average(network: StitchedEnsemble) -> Setting:
    """Every stitch active: the hardest setting, in which errors add up."""
    return Setting.average_at(*network.positions)
