"""What a user asks of a training of one network, and how what is left open goes on as it was asked for before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, TypeVar

Request = TypeVar("Request", bound="TrainingRequest")


@dataclass(frozen=True)
class TrainingRequest:
    """What the user asked for, one field per flag of the command. A field that has its very default was left open.

    `which`: the fields that say which training is meant. `otherwise`: what is taken for a field that was left open
    where nothing was begun.
    """

    which: ClassVar[tuple[str, ...]] = ("dataset", "configuration", "folds", "plans_name")
    otherwise: ClassVar[Mapping[str, Any]] = {}

    def asked(self) -> dict[str, Any]:
        """The terms that were asked for, by field: for JSON."""
        return {f.name: getattr(self, f.name) for f in fields(self)
                if f.name not in self.which and getattr(self, f.name) is not f.default}

    def going_on(self: Request, asked: Mapping[str, Any]) -> Request:
        """With the terms `asked` for before, wherever they are left open now."""
        return replace(self, **{f.name: asked[f.name] for f in fields(self)
                                if f.name not in self.which and f.name in asked and getattr(self, f.name) is f.default})

    def complete(self: Request) -> Request:
        """With nothing left open for which there is a default."""
        return self.going_on(self.otherwise)
