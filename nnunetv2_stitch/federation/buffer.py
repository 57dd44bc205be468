"""The models that the centre holds between rounds: the latest of each party, however old."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class PartyModel:
    """What a party sent. `asked_in`: the round whose global model it trained on from; `cases`: its training cases;
    `weights`: parameters and floating-point buffers by name; `losses`: mean training loss of each local epoch."""

    party: str
    asked_in: int
    cases: int
    weights: Mapping[str, np.ndarray] = field(repr=False)
    losses: tuple[float, ...] = ()

    def age(self, number: int) -> int:
        """In rounds: 0 for a model that was asked for in round `number` itself."""
        return number - self.asked_in

    def to_json(self, number: int) -> dict:
        """All but the weights."""
        return {"party": self.party, "asked_in": self.asked_in, "age": self.age(number), "cases": self.cases,
                "losses": list(self.losses)}


class ModelBuffer:
    """The latest model of each party.

    Args:
        models: to begin with.
        max_age: models older than this many rounds are forgotten; None keeps them.
    """

    def __init__(self, models: Iterable[PartyModel] = (), max_age: int | None = None):
        self.max_age = max_age
        self._models: dict[str, PartyModel] = {}
        for model in models:
            self.put(model)

    def put(self, model: PartyModel) -> None:
        """A model does not replace one that was asked for later."""
        there = self._models.get(model.party)
        if there is None or there.asked_in <= model.asked_in:
            self._models[model.party] = model

    def models(self, number: int) -> list[PartyModel]:
        """Those that take part in round `number`, in order of their parties' names."""
        if self.max_age is not None:
            self._models = {k: m for k, m in self._models.items() if m.age(number) <= self.max_age}
        return [self._models[name] for name in sorted(self._models)]


def fedavg_weights(models: Sequence[PartyModel], number: int) -> list[float]:
    """Where the search starts: FedAvg's weights, by training cases, divided by one plus the model's age, because an old
    model leads back to where the global model was."""
    weights = [m.cases / (1 + m.age(number)) for m in models]
    return [w / sum(weights) for w in weights]
