"""The gate: each party's share in the answer to an image, from how likely its features are under each signature.

Ours. A mixture of experts (Jacobs et al. 1991) whose gate is not trained but measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.gating.features import STAGES
from nnunetv2_stitch.gating.signature import Signature


@dataclass(frozen=True)
class GateOptions:
    """What plans say of a gate, as plain JSON; the statistics are in the state dict.

    `known`: for each partner, whether it claims images: its signature is there, and no other partner speaks for it.
    `quantile`: a party's images count as its own where their density is above this quantile of its own validation
    cases; the higher, the more images get even shares.
    `wholly`: from this share on a party answers alone; above 1 never. `lead`: how far the host is ahead on images
    unlike any party's, from 0, even shares, to 1, the host alone. `limited`: a party claims only what it knows itself;
    False in models of earlier versions, which go on to answer as they were chosen.
    """

    known: tuple[bool, ...]
    quantile: float
    wholly: float = 1.0
    stages: int = STAGES
    lead: float = 0.0
    limited: bool = True

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "known": list(self.known)}

    @classmethod
    def from_json(cls, value: Any, partners: int) -> GateOptions:
        """Raises StitchError for what describes no gate between a host and so many partners."""
        try:
            found = cls(tuple(map(bool, value["known"])), float(value["quantile"]),
                        float(value["wholly"]), int(value["stages"]), float(value["lead"]),
                        bool(value.get("limited", False)))
        except (TypeError, ValueError, KeyError) as error:
            raise StitchError(f"plans.json: the gate is not readable ({error!r}); run nnUNetv2_train_stitch --select "
                              f"-gate on again") from error
        if (len(found.known) != partners or not 0 < found.quantile < 1
                or not 0.5 < found.wholly or not 1 <= found.stages <= 100 or not 0 <= found.lead <= 1):
            raise StitchError(f"plans.json: {found} is no gate for {partners} partners; run nnUNetv2_train_stitch "
                              f"--select -gate on again")
        return found


class Density(nn.Module):
    """A signature's log density of features `(B, F)`, and how far it lies above the threshold. Until it is set nothing
    is likely."""

    def __init__(self, features: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("root", torch.zeros(features, features))  # inverse of the Cholesky factor
        self.register_buffer("peak", torch.full((), -torch.inf))  # largest log density
        self.register_buffer("threshold", torch.zeros(()))

    @torch.no_grad()
    def set(self, signature: Signature, quantile: float) -> None:
        root = torch.linalg.inv(torch.from_numpy(signature.factor))
        for buffer, value in ((self.mean, torch.from_numpy(signature.mean)), (self.root, root),
                              (self.peak, torch.tensor(signature.peak)),
                              (self.threshold, torch.tensor(signature.quantile(quantile)))):
            buffer.copy_(value)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        density = self.peak - 0.5 * ((features - self.mean) @ self.root.T).square().sum(1)
        return _number(density), _number(density - self.threshold)


class Gate(nn.Module):
    """Shares of all parties, the host first, from an image's features in each partner's network.

    With `z` its log density above its own threshold, a party knows an image with the weight `sigmoid(z)`. Between the
    parties the difference of log densities decides, each with that weight: in the feature space of partner k its odds
    against the host are `exp(log N_k - log N_host) sigmoid(z_k) / sigmoid(z_host)`, so that a narrow density has no
    claim on what it does not know itself. How much that counts is decided by the party whose threshold the image lies
    furthest above: the image is unlike any with the weight `sigmoid(-max z)`, and this weight is shared out evenly, or
    with a lead of the host. Without a partner's signature its odds are 0: the host's share is then from 1 down to the
    even one. Of several partners each has the odds of its own space; the host's `z` is the mean over all spaces.

    Args:
        options: see there.
        features: how many each partner's network has.
    """

    def __init__(self, options: GateOptions, features: Sequence[int]):
        super().__init__()
        self.options = options
        self.host = nn.ModuleList(Density(f) for f in features)
        self.partner = nn.ModuleList(Density(f) if known else nn.Module() for f, known in zip(features, options.known))

    def set(self, hosts: Sequence[Signature], partners: Sequence[Signature | None], quantile: float) -> None:
        """Take over signatures, one of either kind per partner, with their thresholds at a quantile."""
        for density, signature in zip((*self.host, *self.partner), (*hosts, *partners)):
            if isinstance(density, Density):
                density.set(signature, quantile)

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Features `(B, F_k)` in each partner's space -> shares `(B, parties)` in float32. Features that are no numbers
        get even shares."""
        with torch.autocast(features[0].device.type, enabled=False):
            features = [f.float() for f in features]
            hosts = [density(f) for density, f in zip(self.host, features)]
            above = torch.stack([z for _, z in hosts]).mean(0)
            odds, host_knows = [torch.zeros_like(above)], F.logsigmoid(above)
            for (own, _), partner, f, known in zip(hosts, self.partner, features, self.options.known):
                density, z = partner(f) if known else (torch.full_like(own, -torch.inf),) * 2
                claim = F.logsigmoid(z) - host_knows if self.options.limited else 0
                odds.append(_number(density - own + claim))
                above = torch.maximum(above, z)
            unlike = torch.sigmoid(-above)[:, None]
            shares = (1 - unlike) * torch.softmax(torch.stack(odds, 1), 1)
            shares = shares + unlike * (1 - self.options.lead) / len(odds)
            shares[:, 0] += self.options.lead * unlike[:, 0]
            return shares


def _number(density: torch.Tensor) -> torch.Tensor:
    """What is no number counts as unlikely."""
    return torch.nan_to_num(density, nan=-torch.inf, neginf=-torch.inf)


def even_shares(parties: int, like: torch.Tensor) -> torch.Tensor:
    """What `Gate` without a lead gives an image that is unlike any, to the last bit."""
    return torch.ones_like(like[:1, :1]) / parties

