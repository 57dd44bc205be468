"""The plain ways of doing things that our implementations are held against, in tests and benchmarks."""

from __future__ import annotations

import torch
from torch import fx

from nnunetv2_stitch.stitching.runner import is_switch
from nnunetv2_stitch.stitching.setting import Setting


def literally_doubled_loss(net, x: torch.Tensor) -> torch.Tensor:
    """The double-batched loss with a literally doubled batch: first half reference, second half stitched."""
    n = len(x)
    terms, heads = [], []

    def error(stitched, target):
        centred = target.transpose(0, 1).flatten(1)
        return (stitched - target).square().mean() / centred.var(1, correction=0).mean()

    class Doubled(fx.Interpreter):
        def run_node(self, node):
            if not is_switch(node):
                return super().run_node(node)
            own, other = (self.env[a] for a in node.args)
            switch = self.fetch_attr(node.target)
            stitched = switch.stitch(other)[n:]
            terms.append(error(stitched, own[:n].detach()))
            return torch.cat([own[:n], switch.choose(own[n:], stitched)])

        def call_module(self, target, args, kwargs):
            if target == "heads":
                heads.extend(args)
            return super().call_module(target, args, kwargs)

    Doubled(net.joined).run(torch.cat([x, x]))
    return torch.stack(terms).mean() + torch.stack([error(h[n:], h[:n].detach()) for h in heads]).mean()


def naive_sweep(net, x: torch.Tensor, positions) -> list[torch.Tensor]:
    """The ensemble's answer at each position, one whole forward pass per position."""
    answers = []
    for position in positions:
        net.apply_setting(Setting.average_at(position))
        answers.append(net(x))
    return answers
