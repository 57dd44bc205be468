"""The gate: each party's share in the answer to an image, from how likely its features are under each signature.

Ours. A mixture of experts (Jacobs et al. 1991) whose gate is not trained but measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.gating.features import STAGES
from nnunetv2_stitch.gating.signature import Signature


@dataclass(frozen=True)
class GateOptions:
    """What plans say of a gate, as plain JSON; the statistics are in the state dict.

    `known`: for each partner, whether its signature is there. `quantile`: a party's images count as its own where
    their density is above this quantile of its own validation cases; the higher, the more images get even shares.
    `sharpness`: how fast evidence counts. `wholly`: from this share on a party answers alone; above 1 never.
    """

    known: tuple[bool, ...]
    quantile: float
    sharpness: float = 1.0
    wholly: float = 1.0
    stages: int = STAGES

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "known": list(self.known)}

    @classmethod
    def from_json(cls, value: Any, partners: int) -> GateOptions:
        """Raises StitchError for what describes no gate between a host and so many partners."""
        try:
            found = cls(tuple(map(bool, value["known"])), float(value["quantile"]), float(value["sharpness"]),
                        float(value["wholly"]), int(value["stages"]))
        except (TypeError, ValueError, KeyError) as error:
            raise StitchError(f"plans.json: the gate is not readable ({error!r}); run nnUNetv2_train_stitch --select "
                              f"-gate on again") from error
        if (len(found.known) != partners or not 0 < found.quantile < 1 or not 0 < found.sharpness < 1e6
                or not 0.5 < found.wholly or not 1 <= found.stages <= 100):
            raise StitchError(f"plans.json: {found} is no gate for {partners} partners; run nnUNetv2_train_stitch "
                              f"--select -gate on again")
        return found


class Density(nn.Module):
    """A signature's log density above its threshold, of features `(B, F)`. Until it is set nothing is likely."""

    def __init__(self, features: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("root", torch.zeros(features, features))  # inverse of the Cholesky factor
        self.register_buffer("offset", torch.full((), -torch.inf))  # largest log density less the threshold

    @torch.no_grad()
    def set(self, signature: Signature, quantile: float) -> None:
        root = torch.linalg.inv(torch.from_numpy(signature.factor))
        for buffer, value in ((self.mean, torch.from_numpy(signature.mean)), (self.root, root),
                              (self.offset, torch.tensor(signature.peak - signature.quantile(quantile)))):
            buffer.copy_(value)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.offset - 0.5 * ((features - self.mean) @ self.root.T).square().sum(1)


class Gate(nn.Module):
    """Shares of all parties, the host first, from an image's features in each partner's network.

    In the feature space of a partner k with a signature: `z = sharpness * (log density - threshold)` for the host and
    for k; `z_0 = 0` stands for an image unlike any. The shares are `softmax(z)`, that of z_0 shared out evenly. Without
    the partner's signature its z is minus infinity: the host's share is then from 1 down to the even one. Of several
    partners each has the z of its own space, and the host the mean of its z over all spaces, so that it counts once.

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
        device = features[0].device
        with torch.autocast(device.type, enabled=False):
            features = [f.float() for f in features]
            host = torch.stack([density(f) for density, f in zip(self.host, features)]).mean(0)
            nothing = torch.full_like(host, -torch.inf)
            partners = [density(f) if known else nothing
                        for density, f, known in zip(self.partner, features, self.options.known)]
            z = torch.stack([host, *partners, torch.zeros_like(host)], 1)
            p = torch.softmax(torch.nan_to_num(self.options.sharpness * z, nan=-torch.inf, neginf=-torch.inf), 1)
            return p[:, :-1] + p[:, -1:] / (p.shape[1] - 1)


def even_shares(parties: int, like: torch.Tensor) -> torch.Tensor:
    """What `Gate` gives an image that is unlike any, to the last bit."""
    return torch.ones_like(like[:1, :1]) / parties

