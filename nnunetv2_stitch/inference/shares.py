"""Who answered: the shares that a gate gave the parties, per case and as maps."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from nnunetv2_stitch.fileio import read_json, write_json
from nnunetv2_stitch.locks import locked

SHARES_FILE = "shares.json"


def write_shares(folder: str, names: Mapping[str, str], cases: Mapping[str, Sequence[float]]) -> None:
    """Write `shares.json`: each case's mean share of each party and a sentence. Cases that are there from earlier, or
    from commands that share the work, are kept.

    Args:
        names: what each party of the network is called, the host first.
        cases: by case the shares of the parties, in the order of `names`.
    """
    path = os.path.join(folder, SHARES_FILE)
    with locked(os.path.join(folder, ".shares.lock")):
        known = read_json(path).get("cases", {}) if os.path.isfile(path) else {}
        new = {case: {"shares": {p: round(s, 4) for p, s in zip(names, shares)}, "said": sentence(names, shares)}
               for case, shares in cases.items()}
        write_json(path, {"parties": dict(names), "cases": dict(sorted({**known, **new}.items()))})


def sentence(names: Mapping[str, str], shares: Sequence[float]) -> str:
    """Such as `answered 97 % by Dataset001_A (host), 3 % by Dataset002_B (partner)`, the largest share first."""
    parts = sorted(zip(shares, names.items()), key=lambda part: -part[0])
    return "answered " + ", ".join(f"{100 * share:.0f} % by {name} ({party})" for share, (party, name) in parts)


class SharesAsMaps(nn.Module):
    """In the place of a gated network: the parties' shares of each image as maps `(B, parties, *spatial)`, so that
    nnU-Net's own sliding window lays the tiles' shares over a case as it does with answers."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def load_state_dict(self, *arguments, **options):
        return self.network.load_state_dict(*arguments, **options)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shares = self.network.gated.shares(x)
        return shares.reshape(*shares.shape, *[1] * (x.ndim - 2)).expand(*shares.shape, *x.shape[2:]).clone()
