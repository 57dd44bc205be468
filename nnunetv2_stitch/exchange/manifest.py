"""party.json: what a travelling model is, for machines."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.exchange.plain import is_name, is_number, is_whole, printable, refused, require_modest

PARTY = "party.json"
FORMAT, VERSION = "nnunetv2-stitch party", 1
FOLD = re.compile(r"all|\d{1,3}")
SHA256 = re.compile(r"[0-9a-f]{64}")
AXES = 3


@dataclass(frozen=True)
class Fold:
    """One fold's weights. `dice` is the mean over its validation cases, by label; None where there was none."""

    fold: str
    mirroring_axes: tuple[int, ...] | None = None
    epochs: int | None = None
    dice: Mapping[str, float | None] | None = None


@dataclass(frozen=True)
class Manifest:
    """A party's model. `files`: sha256 of the files beside this one. `received_as`: added by who installs."""

    name: str
    trainer: str
    plans_name: str
    configuration: str
    network: str
    labels: Mapping[str, Any]
    channels: tuple[str, ...]
    training_cases: int | None
    folds: tuple[Fold, ...]
    checkpoint: str
    licence: str = ""
    contact: str = ""
    exported_with: Mapping[str, str] = field(default_factory=dict)
    trained_with: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    received_as: Mapping[str, str] = field(default_factory=dict)

    @property
    def identifier(self) -> str:
        return f"{self.trainer}__{self.plans_name}__{self.configuration}"

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, "format_version": VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, value: Any) -> Manifest:
        """Of another party's file: unknown keys are passed over, known ones must be what they should be.

        Raises:
            StitchError: names the first that is not.
        """
        require_modest(value, PARTY)
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise refused(PARTY, f"is not of the format '{FORMAT}'")
        if value.get("format_version") != VERSION:
            raise StitchError(f"{PARTY} is of format version {printable(value.get('format_version'))}, this "
                              f"nnunetv2-stitch reads version {VERSION}; install the version that the sender has")
        for key in ("name", "trainer", "plans_name", "configuration", "checkpoint"):
            _require(is_name(value.get(key)), key)
        for key in ("network", "licence", "contact"):
            _require(isinstance(value.get(key, ""), str), key)
        _require(isinstance(value.get("channels"), list) and all(isinstance(c, str) for c in value["channels"]),
                 "channels")
        _require(isinstance(value.get("labels"), dict), "labels")
        cases = value.get("training_cases")
        _require(cases is None or is_whole(cases, 0, 10**9), "training_cases")
        for key in ("exported_with", "trained_with"):
            _require(_is_texts(value.get(key, {})), key)
        files = value.get("files", {})
        _require(_is_texts(files) and all(SHA256.fullmatch(v) for v in files.values()), "files")
        folds = value.get("folds")
        _require(isinstance(folds, list) and 0 < len(folds) <= 1000, "folds")
        read = tuple(map(_fold, folds))
        _require(len({f.fold for f in read}) == len(read), "folds")
        texts = {key: printable(value.get(key, ""), 2000) for key in ("network", "licence", "contact")}
        return cls(value["name"], value["trainer"], value["plans_name"], value["configuration"], texts["network"],
                   value["labels"], tuple(value["channels"]), cases, read, value["checkpoint"], texts["licence"],
                   texts["contact"], value.get("exported_with", {}), value.get("trained_with", {}), files)


def _fold(value: Any) -> Fold:
    _require(isinstance(value, dict) and isinstance(value.get("fold"), str) and FOLD.fullmatch(value["fold"]), "folds")
    axes, epochs, dice = (value.get(key) for key in ("mirroring_axes", "epochs", "dice"))
    _require(epochs is None or is_whole(epochs, 0, 10**9), "epochs")
    _require(dice is None or (isinstance(dice, dict) and all(v is None or is_number(v) for v in dice.values())), "dice")
    return Fold(value["fold"], mirroring_axes(axes, f"{PARTY} of fold {value['fold']}"), epochs, dice)


def mirroring_axes(value: Any, where: str) -> tuple[int, ...] | None:
    """Axes along which the network may be mirrored at prediction, None for none.

    Raises:
        StitchError: anything else.
    """
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or not all(is_whole(a, 0, AXES - 1) for a in value):
        raise refused(where, "has mirroring axes that are none")
    return tuple(value)


def _is_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(v, str) for v in value.values())


def _require(fits: Any, key: str) -> None:
    if not fits:
        raise refused(PARTY, f"has no readable {key}")
