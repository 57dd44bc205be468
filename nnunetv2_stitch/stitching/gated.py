"""The forward pass of a gated stitched ensemble: shares per image, and one parent alone where it answers wholly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import fx, nn

from nnunetv2_stitch.gating.features import probe
from nnunetv2_stitch.gating.gate import Gate, even_shares
from nnunetv2_stitch.stitching.joining import alone

if TYPE_CHECKING:
    from nnunetv2_stitch.stitching.network import StitchedEnsemble

EVEN, MIXED = -1, -2  # beside the index of a party that answers alone


class Gated:
    """Runs a stitched ensemble with the shares that its gate gives each image of a batch.

    An image whose share of one party is `wholly` or above is answered by this party's untouched network alone, which
    is all that is run then; at even shares the answer is that of the stitched ensemble, both to the last bit. In
    between the switches and the heads weigh the parties' maps and answers by the shares.

    `root` holds the traced parents; it gets the gate's statistics as `root.gate`.
    """

    def __init__(self, network: StitchedEnsemble, root: nn.Module, graphs: Mapping[str, fx.Graph]):
        self.network, self.options = network, network.gate_options
        partners = network.parties[1:]
        found = {p: probe(getattr(root, p), network.shape_of(p)[0], self.options.stages) for p in partners}
        self.probes = {p: part for p, (part, _) in found.items()}
        self.inputs = {p: getattr(getattr(root.bridge, p, None), "input", None) for p in partners}
        root.gate = Gate(self.options, [count for _, count in found.values()])
        self.sizes = [count for _, count in found.values()]
        self.alone = [alone(root, graphs, p) for p in network.parties]
        self.wholly = self.options.wholly

    def features(self, party: str, x: torch.Tensor) -> torch.Tensor:
        """Of images `(B, C, *spatial)` in a partner's network, `(B, F)`."""
        bridge = self.inputs[party]
        return self.probes[party](x if bridge is None else bridge(x))

    def shares(self, x: torch.Tensor) -> torch.Tensor:
        """Of all parties for each image, `(B, parties)`, the host's first."""
        return self.network.gate([self.features(p, x) for p in self.probes])

    @torch.compiler.disable(recursive=False)
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Logits `(B, K, *spatial)`."""
        shares = self.shares(x)
        seen = shares.detach().cpu()  # the one wait for a GPU
        if self.network.shares_seen is not None:
            self.network.shares_seen.append(seen)
        ways = self._ways(seen)
        if len(set(ways)) == 1:
            return self._answer(ways[0], x, shares)
        found: list[torch.Tensor] = [x] * len(x)
        for way in set(ways):
            rows = [i for i, w in enumerate(ways) if w == way]
            for i, answer in zip(rows, self._answer(way, x[rows], shares[rows]).split(1)):
                found[i] = answer
        return torch.cat(found)

    def _ways(self, shares: torch.Tensor) -> list[int]:
        """How each image is answered."""
        largest, party = shares.max(1)
        even = (shares == even_shares(shares.shape[1], shares)).all(1)
        mixed = torch.where(even, EVEN, MIXED)
        return torch.where(largest >= self.wholly, party, mixed).tolist()

    def _answer(self, way: int, x: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        if way >= 0:
            return self.alone[way](x)
        if way == EVEN:
            return self.network.joined(x)
        with self._steered(shares, x.ndim):
            return self.network.joined(x)

    @contextmanager
    def _steered(self, shares: torch.Tensor, ndim: int) -> Iterator[None]:
        """Within the context switches and heads weigh by shares. A switch that averages gives the other's map its
        party's share among all whose maps meet there; one with a weight of its own has that at even shares."""
        def shaped(values: torch.Tensor) -> torch.Tensor:
            return values.reshape(-1, *[1] * (ndim - 1))

        heads, switches = self.network.heads, [s for p in self.network.switches.children() for s in p.children()]
        before = [s.mixing_weight for s in switches]
        try:
            for switch in switches:
                own, other = switch.parties
                total = shares[:, list(own)].sum(1) + shares[:, other]
                even = 1 / (len(own) + 1)
                weight = torch.where(total > 0, shares[:, other] / total, even)
                switch.mixing_weight = shaped(weight * (switch.mixing_weight / even))
            heads.shares = [shaped(s) for s in shares.unbind(1)]
            yield
        finally:
            heads.shares = None
            for switch, share in zip(switches, before):
                switch.mixing_weight = share
