"""A network that is nothing but its parameters, so that every loss of them has a known optimum."""

from __future__ import annotations

import torch
from torch import nn


class Points(nn.Module):
    """`sizes`: numbers of entries by name; dots in names make modules, as in an nnU-Net's state_dict."""

    def __init__(self, sizes: dict[str, int]):
        super().__init__()
        for name, size in sizes.items():
            *parts, last = name.split(".")
            module = self
            for part in parts:
                if part not in module._modules:
                    module.add_module(part, nn.Module())
                module = module._modules[part]
            module.register_parameter(last, nn.Parameter(torch.zeros(size)))

    def vector(self) -> torch.Tensor:
        return torch.cat([p.flatten() for p in self.parameters()])


SIZES = {"encoder.stages.0.weight": 7, "encoder.stages.1.weight": 5, "decoder.stages.0.weight": 6,
         "decoder.seg_layers.0.weight": 4}


def members(count: int, seed: int = 0, sizes=SIZES) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [{n: torch.randn(s, generator=generator) for n, s in sizes.items()} for _ in range(count)]


def merged(atlas, c: torch.Tensor, sizes=SIZES) -> dict[str, torch.Tensor]:
    """theta(c) by name."""
    network = Points(sizes)
    atlas.write(network, c)
    return {name: p.detach() for name, p in network.named_parameters()}


class Quadratic:
    """`0.5 |A (theta(c) - target)|^2`, whose optimum is `target` where that is in the members' span."""

    def __init__(self, atlas, network, target, seed=1):
        self.atlas, self.network, self.target = atlas, network, target
        generator = torch.Generator().manual_seed(seed)
        size = sum(v.numel() for v in target.values())
        self.matrix = torch.eye(size) + 0.2 * torch.randn(size, size, generator=generator)
        self.calls = 0

    def _loss(self, c):
        self.atlas.write(self.network, c)
        goal = torch.cat([self.target[n].flatten() for n in self.atlas.names])
        return 0.5 * ((self.matrix @ (self.network.vector() - goal)) ** 2).sum()

    def loss(self, c):
        return float(self._loss(c).detach())

    def loss_and_gradient(self, c):
        self.calls += 1
        self.network.zero_grad()
        loss = self._loss(c)
        loss.backward()
        return float(loss.detach()), self.atlas.gradient(self.network)

    def score(self, c):
        return -self.loss(c)
