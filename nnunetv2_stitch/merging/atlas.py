"""The model atlas: members of one architecture as points around a base, and the network anywhere between them.

`theta(c) = theta0 + sum_i c[i, group] * (theta_i - theta0)`. Coefficients are free: negative ones and those above one
are allowed (arXiv 2503.20138). All members stay in the host's memory. Their deltas come to the device one tensor at a
time, so that the device holds one network however many members there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from nnunetv2_stitch.errors import NotMergeableError, StitchError
from nnunetv2_stitch.merging.groups import GRANULARITIES, grouped

SHOWN = 3  # tensors named in a message


def require_same_tensors(members: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
    """Refuse weights that cannot be merged.

    Args:
        members: tensors by name, of each member by what it is called.

    Raises:
        NotMergeableError: tensors differ in name or shape; the first of them are named.
    """
    (first, reference), *others = members.items()
    for label, weights in others:
        wrong = [n for n in (*reference, *(k for k in weights if k not in reference))
                 if n not in reference or n not in weights or reference[n].shape != weights[n].shape]
        if wrong:
            said = ", ".join(f"{n} is {_shape(reference, n)} and {_shape(weights, n)}" for n in wrong[:SHOWN])
            more = f", and {len(wrong) - SHOWN} more tensors differ" if len(wrong) > SHOWN else ""
            raise NotMergeableError(f"{first} and {label} cannot be merged, their networks differ: {said}{more}; "
                                    f"stitch them instead (nnUNetv2_train_stitch)")


def _shape(weights: Mapping[str, torch.Tensor], name: str) -> str:
    return str(tuple(weights[name].shape)) if name in weights else "missing"


class Atlas:
    """Members around a base.

    Args:
        members: parameters by name of each member, on the CPU; floating point, of equal names and shapes.
        base: `theta0`, of the same names; None for the members' mean.
        granularity: `model`, `stage` or `tensor`: what has a coefficient of its own.

    Raises:
        StitchError: fewer than two members, unknown granularity, names or shapes that differ.
    """

    def __init__(self, members: Sequence[Mapping[str, torch.Tensor]], base: Mapping[str, torch.Tensor] | None = None,
                 granularity: str = "stage", labels: Sequence[str] | None = None):
        if granularity not in GRANULARITIES:
            raise StitchError(f"granularity {granularity!r} is not one of {', '.join(GRANULARITIES)}")
        if len(members) < 2:
            raise StitchError(f"merging needs at least two models, got {len(members)}")
        self.labels = list(labels or (f"model {i + 1}" for i in range(len(members))))
        named = dict(zip(self.labels, members))
        require_same_tensors(named if base is None else {**named, "the base": base})
        self.members = [dict(m) for m in members]
        self.names = list(self.members[0])
        self.has_base = base is not None
        self.base = dict(base) if base is not None else {
            n: torch.stack([m[n].double() for m in self.members]).mean(0).to(self.members[0][n].dtype)
            for n in self.names}
        self.granularity = granularity
        self.groups, self.index = grouped(self.names, granularity)

    def __len__(self) -> int:
        return len(self.members)

    def coefficients(self, weights: Sequence[float]) -> torch.Tensor:
        """`(N, G)`, float64: one weight per member, the same in every group."""
        return torch.tensor(list(weights), dtype=torch.float64)[:, None].expand(-1, len(self.groups)).clone()

    @torch.no_grad()
    def write(self, network: nn.Module, c: torch.Tensor) -> None:
        """Set the parameters of `network` to theta(c), in place; `c` is `(N, G)`."""
        for name, parameter, group in self._parameters(network):
            base = self.base[name].to(parameter.device)
            parameter.copy_(base)
            for i, member in enumerate(self.members):
                weight = float(c[i, group])
                if weight:
                    parameter.add_(member[name].to(parameter.device) - base, alpha=weight)

    @torch.no_grad()
    def write_weights(self, network: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
        """Set the parameters of `network` to `weights`, by name."""
        for name, parameter, _ in self._parameters(network):
            parameter.copy_(weights[name])

    def write_member(self, network: nn.Module, i: int) -> None:
        """Exactly the member, which theta(c) with one coefficient of 1 is only up to rounding."""
        self.write_weights(network, self.members[i])

    @torch.no_grad()
    def gradient(self, network: nn.Module) -> torch.Tensor:
        """`dL/dc`, `(N, G)` in float64, after a backward pass of L through `network`: the dot products
        `<grad_theta L, theta_i - theta0>` within each group. Parameters without gradient count as zero."""
        found = torch.zeros(len(self), len(self.groups), dtype=torch.float64)
        for name, parameter, group in self._parameters(network):
            if parameter.grad is None:
                continue
            base = self.base[name].to(parameter.device)
            exact = torch.float32 if parameter.device.type == "mps" else torch.float64  # mps has no float64
            dots = [torch.sum(parameter.grad * (member[name].to(parameter.device) - base), dtype=exact)
                    for member in self.members]
            found[:, group] += torch.stack(dots).cpu().double()
        return found

    def _parameters(self, network):
        """Names without duplicates: one tensor of a U-Net has up to four names in its state_dict."""
        group = dict(zip(self.names, self.index))
        for name, parameter in network.named_parameters():
            yield name, parameter, group[name]
