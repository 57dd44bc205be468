"""What a thing was made of: one record for everything that may be used again, and one check.

Where the record differs, the thing is another one: it gets another name, because the record's digest is part of it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import nnunetv2_stitch
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import read_json, write_json
from nnunetv2_stitch.folders import names_in

RECORD_FILE = "made_from.json"


@dataclass(frozen=True)
class Provenance:
    """`kind`: what the thing is, in words. `made_from`: everything that decides what comes out (models by their sha256,
    folds, data, settings, budget, seed), by the word that a message says for it; JSON values."""

    kind: str
    made_from: Mapping[str, Any]

    def __post_init__(self):
        # As it is read back: tuples are lists, keys are text.
        object.__setattr__(self, "made_from", json.loads(json.dumps(dict(self.made_from))))

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:8]

    def name(self, stem: str) -> str:
        """`stem`, and what tells this thing from others of its kind."""
        return f"{stem}_{self.digest}"

    def differences(self, other: Provenance) -> list[str]:
        """The words for what differs, in order; empty where both are the same."""
        if self.kind != other.kind:
            return ["kind"]
        mine, theirs = self.made_from, other.made_from
        return [k for k in {**mine, **theirs} if (k in mine, mine.get(k)) != (k in theirs, theirs.get(k))]

    def to_json(self) -> dict:
        return {"kind": self.kind, "made_from": dict(self.made_from)}

    @classmethod
    def from_json(cls, value: Any) -> Provenance | None:
        """None where this is no record."""
        if isinstance(value, dict) and isinstance(value.get("made_from"), dict):
            return cls(str(value.get("kind")), value["made_from"])
        return None


def versions(*more: str) -> dict[str, str]:
    """Of this package and of those that decide what comes out: nnU-Net, torch and `more`."""
    return {**{name: version(name) for name in ("nnunetv2", "torch", *more)},
            "nnunetv2-stitch": nnunetv2_stitch.__version__}


def made_from(folder: str) -> Provenance | None:
    """The record in a folder; None where there is none."""
    path = os.path.join(folder, RECORD_FILE)
    return Provenance.from_json(read_json(path)) if os.path.isfile(path) else None


def begin(folder: str, record: Provenance) -> None:
    """Write the record into a folder before anything is made there; go on in one that was begun with the same.

    Raises:
        StitchError: the folder holds anything else.
    """
    there = made_from(folder) if os.path.isdir(folder) else None
    if there is None and os.path.isdir(folder) and names_in(folder):
        raise StitchError(f"{folder} is there and was not made by this command ({RECORD_FILE} is missing); move it "
                          f"away and start again")
    if there is not None and (differ := there.differences(record)):
        raise StitchError(f"{folder} was made with other {', '.join(differ)}; move it away and start again")
    if there is None:
        write_json(os.path.join(folder, RECORD_FILE), record.to_json())
