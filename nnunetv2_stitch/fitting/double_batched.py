"""Double-batched training: a stream with stitched features learns to stay close to a stream without.

Known from the paper: half the batch stays untouched as reference, half carries stitched features, MSE at several
points, parents frozen. Ours: the reference stream is a separate pass in step with the other and keeps nothing for
the backward pass. With per-sample norms, or norms in eval mode, this equals a literally doubled batch.
"""

from __future__ import annotations

import random

import torch
from torch.utils.checkpoint import checkpoint

from nnunetv2_stitch.stitching.network import StitchedEnsemble
from nnunetv2_stitch.stitching.runner import GraphRunner, is_switch
from nnunetv2_stitch.stitching.setting import STATES, Setting


class RelativeError(torch.autograd.Function):
    """`mean((x - target)^2) / variance(target)`, i.e. 1 - R^2; saves one map for the backward pass instead of two."""

    @staticmethod
    def forward(ctx, x, target):
        difference = x - target
        channel_means = target.float().mean((0, *range(2, target.ndim)), keepdim=True)
        scale = 1.0 / (target - channel_means).square().sum().clamp_min(1e-8 * target.numel())
        ctx.save_for_backward(difference, scale)
        return difference.float().square().sum() * scale

    @staticmethod
    def backward(ctx, grad):
        difference, scale = ctx.saved_tensors
        return (difference.float() * (2 * scale * grad)).to(difference.dtype), None


def relative_error(x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Squared error of a map `(B, C, *spatial)` over the variance of the target around its channel means."""
    return RelativeError.apply(x, target)


POINTS = ("all", "switches", "heads")


def double_batched_loss(network: StitchedEnsemble, x: torch.Tensor, segments: int = 1,
                        points: str = "all") -> torch.Tensor:
    """Loss of one batch `(B, C, *spatial)` under the supernet's present switch states.

    Mean over all switches of the relative error between the stitched map in the stitched stream and the own map in
    the reference stream, plus the mean of the same over both heads. A switch that is set to `own` still compares its
    stitched map, so that every stitch learns in every step.

    `points` leaves out the heads (`switches`) or all but the heads (`heads`), for comparison.
    `segments > 1` recomputes the graph in that many pieces during the backward pass (activation checkpointing):
    less memory, one more forward pass of both streams.
    """
    runner = GraphRunner(network.joined)
    heads = runner.output.args
    switch_terms: list[torch.Tensor] = []
    stop = len(runner.nodes) - 1
    bounds = [round(i * stop / segments) for i in range(segments + 1)]
    reference, stitched = {runner.input: x}, {runner.input: x}
    for start, end in zip(bounds, bounds[1:]):
        names, values = list(stitched), list(stitched.values())
        reference_names, reference_values = list(reference), list(reference.values())

        def piece(*tensors, start=start, end=end, names=names, reference_names=reference_names):
            live = dict(zip(names, tensors[:len(names)]))
            untouched = dict(zip(reference_names, tensors[len(names):]))
            terms = _in_step(runner, untouched, live, start, end)
            piece.live, piece.untouched = list(live), list(untouched)
            return (*live.values(), *untouched.values(), *terms)

        run = piece if segments == 1 else lambda *t, piece=piece: checkpoint(piece, *t, use_reentrant=False)
        result = run(*values, *reference_values)
        n, m = len(piece.live), len(piece.untouched)
        stitched = dict(zip(piece.live, result[:n]))
        reference = dict(zip(piece.untouched, result[n:n + m]))
        switch_terms.extend(result[n + m:])
    head_terms = [relative_error(stitched[h], reference[h].detach()) for h in heads]
    terms = {"switches": switch_terms, "heads": head_terms}
    return sum(torch.stack(terms[p]).mean() for p in (terms if points == "all" else [points]))


def _in_step(runner: GraphRunner, reference, stitched, start: int, end: int) -> list[torch.Tensor]:
    """Run both streams over nodes `start` to `end`; returns one loss term per switch passed."""
    terms = []
    for index in range(start, end):
        node = runner.nodes[index]
        if is_switch(node):
            target = reference[node.args[0]].detach()

            def on_switch(node, own, other, target=target):
                switch = runner.modules[node]
                translated = switch.stitch(other)
                terms.append(relative_error(translated, target))
                return switch.choose(own, translated)

            runner.step(stitched, index, on_switch)
            runner.step(reference, index, lambda _node, own, _other: own)
        else:
            runner.step(stitched, index)
            with torch.no_grad():
                runner.step(reference, index)
    return terms


def sample_setting(network: StitchedEnsemble, rng: random.Random) -> Setting:
    """Random switch states: one share of active switches for the whole step, so that few and many are both seen.

    The other parent's map is used `stitched` or as `average` with equal chance. Ours; the paper does not say.
    """
    active = rng.random()

    def state():
        return rng.choice(STATES[1:]) if rng.random() < active else STATES[0]

    return Setting({p: (state(), state()) for p in network.positions})
