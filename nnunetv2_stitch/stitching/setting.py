"""How the switches of a stitched ensemble are set, as a value with a JSON round trip."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nnunetv2_stitch.errors import StitchError

if TYPE_CHECKING:
    import torch

SIDES = ("host", "partner")  # of one position, which always joins the host and one partner
STATES = ("own", "stitched", "average")
OUTPUT = re.compile(r"ensemble|host|partner([2-9]|[1-9]\d+)?")
COMBINES = ("probabilities", "logits")


def party_names(parents: int) -> tuple[str, ...]:
    """host, partner, partner2, ...: what the parents of a stitched ensemble are called inside it."""
    return (*SIDES, *(f"partner{i}" for i in range(2, parents)))[:parents]


def in_ranges(positions: Sequence[int]) -> str:
    """Positions in order as the commands take them: `3,7,20-25`."""
    runs: list[list[int]] = []
    for position in positions:
        if runs and position == runs[-1][-1] + 1:
            runs[-1].append(position)
        else:
            runs.append([position])
    return ",".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)


@dataclass(frozen=True)
class Setting:
    """Switch states by position, as `(host state, partner state)`; a position that is not named is `own`. A number is
    the weight of the other parent's translated map beside the own one, of any sign: 0 is `own`, 1 is `stitched`.

    `output` says whose head answers (`ensemble`, `host`, `partner`, `partner2`, ...), `combine` what an ensemble of the
    heads averages, `host_share` the host's weight in that average, from 0 to 1; the partners share the rest equally.
    None: all parties alike.
    """

    switches: Mapping[int, tuple[str | float, str | float]] = field(default_factory=dict)
    output: str = "ensemble"
    combine: str = "probabilities"
    host_share: float | None = None

    def __post_init__(self):
        switches = {}
        for position, states in sorted((int(k), v) for k, v in dict(self.switches).items()):
            states = tuple(map(_state, (states, states) if isinstance(states, (str, int, float)) else states))
            if len(states) != 2 or None in states:
                raise StitchError(f"switch {position}: {states} is not a pair of {', '.join(STATES)} or of numbers")
            if states != ("own", "own"):
                switches[position] = states
        object.__setattr__(self, "switches", switches)
        if not (isinstance(self.output, str) and OUTPUT.fullmatch(self.output)):
            raise StitchError(f"output {self.output!r} is not ensemble, host, partner, or partner2 and so on")
        if self.combine not in COMBINES:
            raise StitchError(f"combine {self.combine!r} is not one of {', '.join(COMBINES)}")
        share = self.host_share
        if share is not None and not (isinstance(share, (int, float)) and 0 <= share <= 1):
            raise StitchError(f"host_share {self.host_share!r} is not between 0 and 1")

    @classmethod
    def average_at(cls, *positions: int, output: str = "ensemble", combine: str = "probabilities") -> Setting:
        """The paper's well placed pair: both parents' maps averaged at each of `positions`."""
        return cls({p: ("average", "average") for p in positions}, output, combine)

    @classmethod
    def weighted(cls, positions: Sequence[int], weights: Sequence[tuple[float, float]], output: str = "ensemble",
                 combine: str = "probabilities") -> Setting:
        """Mixing weights `(host, partner)` of each of `positions`."""
        return cls(dict(zip(positions, map(tuple, weights))), output, combine)

    @property
    def is_weighted(self) -> bool:
        return any(isinstance(s, float) for pair in self.switches.values() for s in pair)

    def state(self, position: int, side: str) -> str | float:
        return self.switches.get(position, ("own", "own"))[SIDES.index(side)]

    def to_json(self) -> dict:
        switches = {str(k): (v[0] if v[0] == v[1] else list(v)) for k, v in self.switches.items()}
        share = {} if self.host_share is None else {"host_share": self.host_share}
        return {"switches": switches, "output": self.output, "combine": self.combine, **share}

    @classmethod
    def from_json(cls, value: Mapping) -> Setting:
        return cls(value.get("switches", {}), value.get("output", "ensemble"), value.get("combine", "probabilities"),
                   value.get("host_share"))


def _state(state) -> str | float | None:
    """A state in its one spelling; None if it is none."""
    if isinstance(state, str):
        return state if state in STATES else None
    if isinstance(state, bool) or not isinstance(state, (int, float)) or not math.isfinite(state):
        return None
    return {0.0: "own", 1.0: "stitched"}.get(float(state), float(state))


def encode_setting(setting: Setting) -> torch.Tensor:
    """A setting as a uint8 tensor of JSON, so that it loads with `weights_only=True`."""
    import torch
    return torch.tensor(list(json.dumps(setting.to_json(), sort_keys=True).encode()), dtype=torch.uint8)


def decode_setting(encoded: torch.Tensor) -> Setting:
    try:
        return Setting.from_json(json.loads(bytes(encoded.cpu().tolist())))
    except (ValueError, AttributeError, TypeError) as error:
        raise StitchError(f"the weights hold no readable switch setting ({error})") from error
