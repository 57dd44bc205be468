"""The two streams of double-batched training, run in step through one joined graph."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch.utils.checkpoint import checkpoint

from nnunetv2_stitch.fitting.relative_error import narrowed, relative_error
from nnunetv2_stitch.stitching.runner import Env, GraphRunner, is_switch, position_of


class TwoStreams:
    """Runs the reference stream, of untouched features and without gradients, beside the stitched stream.

    `compared` are the positions whose stitches are computed and compared, all if None; `keep` is the precision of what
    is kept of the reference stream for the backward pass.
    """

    def __init__(self, runner: GraphRunner, compared: Collection[int] | None = None, keep: torch.dtype | None = None):
        self.runner, self.compared, self.keep = runner, compared, keep
        self.untouched = set().union(*(runner.own_path(head) for head in runner.output.args))
        idle = [n for n in runner.nodes if is_switch(n) and not self._compares(n)]
        # Maps that are only brought to the other's grid for a stitch that is not computed.
        self.stitched = set(runner.nodes) - {other for n in idle for other in n.args[1:] if other not in self.untouched}

    def _compares(self, switch) -> bool:
        return self.compared is None or position_of(switch)[0] in self.compared

    def run(self, reference: Env, stitched: Env, start: int, end: int) -> list[torch.Tensor]:
        """Nodes `start` to `end` (exclusive) of both streams, in place; returns one loss term per stitch compared."""
        terms: list[torch.Tensor] = []
        for index in range(start, end):
            node = self.runner.nodes[index]
            target = reference[node.args[0]].detach() if is_switch(node) else None

            def on_switch(node, own, other, target=target):
                if not self._compares(node):
                    return own
                switch = self.runner.modules[node]
                translated = switch.stitch(other)
                terms.append(relative_error(translated, target, self.keep))
                return switch.choose(own, translated)

            self.runner.run(stitched, index, index + 1, on_switch, self.stitched)
            with torch.no_grad():
                self.runner.run(reference, index, index + 1, _own, self.untouched)
        return terms

    def run_again_later(self, reference: Env, stitched: Env, start: int, end: int) -> tuple[Env, Env, list]:
        """As `run`, on copies, which it returns with the terms; keeps nothing inside for the backward pass, but runs
        again in it (activation checkpointing)."""
        names, dtypes = list(stitched), {node: value.dtype for node, value in reference.items()}
        exact = [reference]  # only for the first time, so that rounding does not add up along the network

        def piece(*tensors):
            own = dict(zip(names, tensors))
            other = dict(exact.pop()) if exact else {
                n: v.to(dtype) for (n, dtype), v in zip(dtypes.items(), tensors[len(names):])}
            terms = self.run(other, own, start, end)
            return other, own, terms

        return checkpoint(piece, *stitched.values(), *(narrowed(v, self.keep) for v in reference.values()),
                          use_reentrant=False)


def _own(_node, own, _other):
    return own
