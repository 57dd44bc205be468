"""Double-batched training: a stream with stitched features learns to stay close to a stream without.

Known from the paper: half the batch stays untouched as reference, half carries stitched features, MSE at several
points, parents frozen. Ours: the reference stream is a separate pass in step with the other and keeps nothing for
the backward pass. With per-sample norms, or norms in eval mode, this equals a literally doubled batch.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from nnunetv2_stitch.fitting.cutting import equal_cuts
from nnunetv2_stitch.fitting.relative_error import relative_error
from nnunetv2_stitch.fitting.streams import TwoStreams
from nnunetv2_stitch.stitching.network import StitchedEnsemble
from nnunetv2_stitch.stitching.runner import GraphRunner


def double_batched_loss(network: StitchedEnsemble, x: torch.Tensor, cuts: int | Sequence[int] = 1,
                        compared: Collection[int] | None = None, keep: torch.dtype | None = None) -> torch.Tensor:
    """Loss of one batch `(B, C, *spatial)` under the supernet's present switch states.

    Mean over all switches of the relative error between the stitched map in the stitched stream and the own map in
    the reference stream, plus the mean of the same over both heads. A switch that is set to `own` still compares its
    stitched map, so that every stitch learns in every step.

    Args:
        cuts: divide the graph into pieces that are recomputed during the backward pass (activation checkpointing): less
            memory, one more forward pass of both streams. A number of equal pieces, or the inner cuts as indices of
            nodes.
        compared: positions whose stitches are compared, all if None; at the others, which must be set to `own`, the
            stitches are not even computed.
        keep: what is kept of the reference stream for the backward pass is stored with this precision, if it has a
            higher. The loss is the same, the gradients differ by rounding.
    """
    return sum(errors_of_streams(network, x, cuts, compared, keep))


def errors_of_streams(network: StitchedEnsemble, x: torch.Tensor, cuts: int | Sequence[int] = 1,
                      compared: Collection[int] | None = None,
                      keep: torch.dtype | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Both terms of `double_batched_loss`: the mean error over the switches, and that over the heads.

    Args:
        cuts, compared, keep: see there.
    """
    streams = TwoStreams(GraphRunner(network.joined), compared, keep)
    runner = streams.runner
    stop = len(runner.nodes) - 1
    bounds = [0, *(equal_cuts(stop, cuts) if isinstance(cuts, int) else cuts), stop]
    reference, stitched = {runner.input: x}, {runner.input: x}
    switch_terms: list[torch.Tensor] = []
    for start, end in zip(bounds, bounds[1:]):
        # The last piece would run again at once.
        if end < stop and torch.is_grad_enabled():
            reference, stitched, terms = streams.run_again_later(reference, stitched, start, end)
        else:
            terms = streams.run(reference, stitched, start, end)
        switch_terms += terms
    heads = runner.output.args
    head_terms = [relative_error(stitched[h], reference[h].detach(), keep) for h in heads]
    return torch.stack(switch_terms).mean(), torch.stack(head_terms).mean()


def groups(positions: Sequence[int], per_pass: int | None) -> list[list[int]]:
    """`positions` in groups of at most `per_pass`, each spread over the whole network; one group if None."""
    if per_pass is None or per_pass >= len(positions):
        return [list(positions)]
    count = -(-len(positions) // per_pass)
    return [list(positions[i::count]) for i in range(count)]
