"""Direct matching in closed form: each stitch is a separate linear regression, solved from one pass over the data.

Known from the paper: direct matching fits a stitch to the partner's features at the match alone. Ours: the exact
least-squares solution from moments instead of gradient descent, so there is no learning rate and no epoch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import distributed as dist

from nnunetv2_stitch.stitching.network import StitchedEnsemble
from nnunetv2_stitch.stitching.runner import GraphRunner, is_switch, position_of
from nnunetv2_stitch.stitching.setting import SIDES, Setting

MAX_GAIN = 3.0  # where next to nothing is explained, noise is not blown up without bound


class Moments:
    """Running first and second moments of `[a; b]` over all pixels of all batches.

    Products are taken in the maps' own precision, sums in float64. Values are shifted by the first batch's means
    before they are multiplied, so that a large mean does not swamp a small variance.
    """

    def __init__(self, channels_a: int, channels_b: int):
        self.split = channels_a
        self.count = 0.0
        self.shift: torch.Tensor | None = None
        self.first = torch.zeros(channels_a + channels_b, dtype=torch.float64)
        self.second = torch.zeros(channels_a + channels_b, channels_a + channels_b, dtype=torch.float64)

    def update(self, a: torch.Tensor, b: torch.Tensor) -> None:
        """Add maps `(B, Ca, *spatial)` and `(B, Cb, *spatial)` of the same images."""
        values = torch.cat([m.detach().float().transpose(0, 1).flatten(1) for m in (a, b)])
        if self.shift is None:
            self.shift = values.mean(1, keepdim=True)
        values = values - self.shift
        self.count += values.shape[1]
        self.first += values.sum(1, dtype=torch.float64).cpu()
        self.second += (values @ values.T).double().cpu()

    def state(self) -> torch.Tensor:
        """Count, raw first and second moments without the shift, flat, so that processes can add theirs up."""
        shift = self.shift[:, 0].double().cpu() if self.shift is not None else torch.zeros_like(self.first)
        first = self.first + self.count * shift
        cross = torch.outer(self.first, shift)
        second = self.second + cross + cross.T + self.count * torch.outer(shift, shift)
        return torch.cat([torch.tensor([self.count], dtype=torch.float64), first, second.flatten()])

    def load_state(self, state: torch.Tensor) -> None:
        n = len(self.first)
        self.shift = torch.zeros(n, 1)
        self.count, self.first, self.second = float(state[0]), state[1:n + 1], state[n + 1:].reshape(n, n)

    def solve(self, ridge: float = 1e-6, keep_variance: bool = False) -> tuple[Affine, Affine]:
        """The regressions b -> a and a -> b, in this order.

        Least squares explains a part of the target's variance and has no more than this part itself. `keep_variance`
        scales every channel of the translated map around its mean to the target's variance, at the price of a larger
        squared error.
        """
        mean = self.first / max(self.count, 1)
        covariance = self.second / max(self.count, 1) - torch.outer(mean, mean)
        mean = mean + self.shift[:, 0].double().cpu()
        a, b = slice(0, self.split), slice(self.split, None)
        return tuple(_regress(covariance, mean, source, target, ridge, keep_variance)
                     for source, target in ((b, a), (a, b)))


@dataclass(frozen=True)
class Affine:
    """`target = weight @ source + bias`; weight `(C_target, C_source)`. `r2` is the explained share of the target's
    variance over all channels, 1 for a target without variance."""

    weight: torch.Tensor
    bias: torch.Tensor
    r2: float


def _regress(covariance: torch.Tensor, mean: torch.Tensor, source: slice, target: slice, ridge: float,
             keep_variance: bool) -> Affine:
    """Ridge relative to the mean variance of the source; only there to keep dead channels solvable."""
    xx, yx, yy = covariance[source, source], covariance[target, source], covariance[target, target].diagonal().sum()
    scale = xx.diagonal().mean().clamp_min(1e-12)
    regular = xx + ridge * scale * torch.eye(len(xx), dtype=xx.dtype)
    weight = torch.linalg.solve(regular, yx.T).T
    if keep_variance:
        fitted = ((weight @ xx) * weight).sum(1)
        wanted = covariance[target, target].diagonal()
        weight = weight * (wanted / fitted.clamp_min(1e-12)).clamp(0, MAX_GAIN**2).sqrt()[:, None]
    residual = yy - 2 * (weight * yx).sum() + (weight @ xx * weight).sum()
    r2 = 1.0 if yy <= 0 else float((1 - residual / yy).clamp_max(1))
    return Affine(weight.float(), (mean[target] - weight @ mean[source]).float(), r2)


class DirectMatching:
    """Accumulates the moments of all matches of a supernet, batch by batch, then solves for every stitch."""

    def __init__(self, network: StitchedEnsemble, ridge: float = 1e-6, keep_variance: bool = False):
        self.network, self.ridge, self.keep_variance = network, ridge, keep_variance
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
        if not (dist.is_available() and dist.is_initialized()):
            return
        states: list = [None] * dist.get_world_size()
        dist.all_gather_object(states, {k: m.state() for k, m in self.moments.items()})
        for key, moments in self.moments.items():
            moments.load_state(torch.stack([s[key] for s in states]).sum(0))

    def solve(self) -> dict[int, tuple[float, float]]:
        """Set every stitch to its least-squares solution; returns R^2 per position as `(to host, to partner)`."""
        scores: dict[int, dict[str, float]] = {p: {} for p in self.network.positions}
        for (position, own), moments in self.moments.items():
            for side, solution in zip(_own_first(own), moments.solve(self.ridge, self.keep_variance)):
                if side == own or (position, side) not in self.moments:
                    self.network.switch(position, side).set_affine(solution.weight, solution.bias)
                    scores[position][side] = solution.r2
        return {p: tuple(found[s] for s in SIDES) for p, found in scores.items()}


def _own_first(side: str) -> tuple[str, str]:
    return SIDES if side == SIDES[0] else SIDES[::-1]


def all_average(network: StitchedEnsemble) -> Setting:
    """Every stitch active: the hardest setting, in which errors add up."""
    return Setting.average_at(*network.positions)
