"""Who answered: the shares that a gate gave the parties, per case and as maps."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import read_json, write_json
from nnunetv2_stitch.locks import locked

SHARES_FILE = "shares.json"
LOCK = ".shares.lock"


def write_shares(folder: str, names: Mapping[str, str], cases: Mapping[str, Sequence[float]]) -> None:
    """Write `shares.json`: each case's mean share of each party and a sentence. Cases that are there from earlier, or
    from commands that share the work, are kept.

    Args:
        names: what each party of the network is called, the host first.
        cases: by case the shares of the parties, in the order of `names`.

    Raises:
        StitchError: a file of this name that is none of ours.
    """
    with locked(os.path.join(folder, LOCK)):
        require_ours(folder)
        new = {case: {"shares": {p: round(s, 4) for p, s in zip(names, shares)}, "said": sentence(names, shares)}
               for case, shares in cases.items()}
        _write(folder, names, {**(_ours(folder) or {}).get("cases", {}), **new})


def require_ours(folder: str) -> None:
    """Raises StitchError if there is a `shares.json` that is damaged or that we did not write."""
    if os.path.isfile(os.path.join(folder, SHARES_FILE)) and _ours(folder) is None:
        raise StitchError(f"{os.path.join(folder, SHARES_FILE)} is damaged or of another program; move it away, or "
                          f"choose another output folder")


def require_same_parties(folder: str, names: Mapping[str, str]) -> None:
    """Raises StitchError if `shares.json` has cases that a model of other parties has answered."""
    known = _ours(folder)
    if known is not None and known["parties"] != dict(names):
        raise StitchError(f"{os.path.join(folder, SHARES_FILE)} has cases of a model of "
                          f"{', '.join(map(str, known['parties'].values()))}, this model is of "
                          f"{', '.join(names.values())}; choose another output folder")


def forget_shares(folder: str, cases: Iterable[str]) -> None:
    """Take out what `shares.json` says of these cases, because they are predicted anew; the file, where it says nothing
    more. A file that is none of ours stays as it is."""
    gone = set(cases)
    if not gone or not os.path.isfile(os.path.join(folder, SHARES_FILE)):
        return
    with locked(os.path.join(folder, LOCK)):
        known = _ours(folder)
        if known is None or not gone & known["cases"].keys():
            return
        if left := {case: said for case, said in known["cases"].items() if case not in gone}:
            _write(folder, known["parties"], left)
        else:
            os.remove(os.path.join(folder, SHARES_FILE))


def _ours(folder: str) -> dict | None:
    """What `shares.json` holds; None where there is none, or none that `write_shares` wrote."""
    try:
        found = read_json(os.path.join(folder, SHARES_FILE))
        ours = (found.keys() == {"parties", "cases"} and isinstance(found["parties"], dict)
                and all(said.keys() == {"shares", "said"} for said in found["cases"].values()))
    except (StitchError, AttributeError):
        return None
    return found if ours else None


def _write(folder: str, names: Mapping[str, str], cases: Mapping[str, Mapping]) -> None:
    write_json(os.path.join(folder, SHARES_FILE), {"parties": dict(names), "cases": dict(sorted(cases.items()))})


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
