"""party.json: what a travelling model is, for machines. Numbers only, nothing about single cases."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.nnunet_internals import values_of_key
from nnunetv2_stitch.parties.model_folder import ModelFolder
from nnunetv2_stitch.parties.untrusted_json import is_name, is_number, is_whole, printable, refused, require_modest

PARTY = "party.json"
FORMAT, VERSION = "nnunetv2-stitch party", 1
FOLD = re.compile(r"all|\d{1,3}")
SHA256 = re.compile(r"[0-9a-f]{64}")
AXES = 3
TORCH_VERSION = re.compile(r"\d+(\.\d+)+([.+-]?[a-z0-9]+)*")
ADAPTED = "adapt.json"
MERGED, DISTILLED = "merge.json", "distillation.json"  # of a fold


@dataclass(frozen=True)
class Fold:
    """One fold's weights. `dice` is the mean over its validation cases, by label; None where there was none."""

    fold: str
    mirroring_axes: tuple[int, ...] | None = None
    epochs: int | None = None
    dice: Mapping[str, float | None] | None = None


@dataclass(frozen=True)
class Manifest:
    """A party's model. `files`: sha256 of the files beside this one. `received_as`: added by who installs.
    `made_from`: another party's model that went into this one, in words, with its licence; empty where none did."""

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
    made_from: str = ""
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
        for key in ("network", "licence", "contact", "made_from"):
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
        texts = {key: printable(value.get(key, ""), 2000) for key in ("network", "licence", "contact", "made_from")}
        return cls(value["name"], value["trainer"], value["plans_name"], value["configuration"], texts["network"],
                   value["labels"], tuple(value["channels"]), cases, read, value["checkpoint"], texts["licence"],
                   texts["contact"], texts["made_from"], value.get("exported_with", {}), value.get("trained_with", {}),
                   files)


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


def versions_of_training(fold_folder: str) -> dict[str, str]:
    """Of what trained, as far as nnU-Net wrote it down: debug.json names the version of torch."""
    said = _readable(os.path.join(fold_folder, "debug.json")).get("torch_version")
    return {"torch": said} if isinstance(said, str) and TORCH_VERSION.fullmatch(said) else {}


def mean_dice(fold_folder: str, labels: dict[str, Any]) -> dict[str, float | None] | None:
    """Mean Dice by label of the fold's validation; None if there was none."""
    mean = _readable(os.path.join(fold_folder, "validation", "summary.json")).get("mean")
    if not isinstance(mean, dict):
        return None
    scores = {values_of_key(key): values.get("Dice") for key, values in mean.items() if isinstance(values, dict)}
    named = {name: tuple(value) if isinstance(value, (list, tuple)) else (value,) for name, value in labels.items()}
    found = {name: scores[value] for name, value in named.items() if name != "ignore" and value in scores}
    return {name: round(float(dice), 4) if is_number(dice) else None for name, dice in found.items()} or None


def received_manifest(model: ModelFolder) -> Manifest | None:
    """party.json of a model that came from someone else: what is known of it beyond its files."""
    value = _readable(os.path.join(model.path, PARTY))
    return Manifest.from_json(value) if value else None


def adapted_from(model: ModelFolder) -> str:
    """Of a partner's model that nnUNetv2_adapt_party trained on: whose it was and what its licence says, in words."""
    dataset, name, licence = _adapted_partner(model)
    return f"{dataset}, {name}, trained on by another party; its licence: {licence or 'not said'}" if dataset else ""


def came_from_one_zip(one: ModelFolder, other: ModelFolder) -> bool:
    """Whether both were installed from the same file; their checkpoints differ in the name of the dataset."""
    files = [m.received.get("received_as") for m in (one, other)]
    sums = [f.get("sha256") if isinstance(f, dict) else None for f in files]
    return one.identifier == other.identifier and sums[0] is not None and sums[0] == sums[1]


def called(model: ModelFolder) -> str:
    """What people call a model that came from another party: its sender's name for it, or whose it was before it was
    trained on; empty for one's own."""
    sent, (dataset, *_) = received_manifest(model), _adapted_partner(model)
    return sent.name if sent is not None else f"{dataset}, adapted" if dataset else ""


def made_from(model: ModelFolder) -> str:
    """Of all models that were trained on, merged or learned from: whose they were and what their licences say, in
    words; empty where there were none."""
    others = [f"{name}, {how}; its licence: {licence or 'not said'}" for name, how, licence in _learned_from(model)]
    return printable("; ".join(filter(None, [adapted_from(model), *others])), 2000)


def licence_of(model: ModelFolder) -> str:
    """What a model that came from another party may be used for: as it was sent, or as the models that it was made of;
    empty where nobody said."""
    sent = received_manifest(model)
    licences = [_adapted_partner(model)[2], *(licence for *_, licence in _learned_from(model))]
    return (sent.licence if sent is not None else "") or "; ".join(dict.fromkeys(filter(None, licences)))


def _learned_from(model: ModelFolder) -> list[tuple[str, str, str]]:
    """Of a merged model its members, of a student its teacher's partners: name, how it went in, and licence."""
    found = []
    for fold in model.folds:
        for file, key, how in ((MERGED, "members", "merged with others"),
                               (DISTILLED, "partners", "stitched into what taught this one")):
            listed = _readable(os.path.join(model.path, f"fold_{fold}", file)).get(key)
            for entry in (e for e in (listed if isinstance(listed, list) else ()) if isinstance(e, dict)):
                name = ", ".join(str(entry[k]) for k in ("dataset", "model") if entry.get(k))
                found.append((printable(name, 500), how, printable(str(entry.get("licence") or ""), 500)))
    return list(dict.fromkeys(found))


def _adapted_partner(model: ModelFolder) -> tuple[str, str, str]:
    """Dataset, model and licence of the partner that a model was adapted from; empty where it was not."""
    partner = _readable(os.path.join(model.path, ADAPTED)).get("partner")
    partner = partner if isinstance(partner, dict) else {}
    return tuple(printable(str(partner.get(key) or ""), 500) for key in ("dataset", "model", "licence"))


def network_name(model: ModelFolder) -> str:
    """Class, stages and features, as in `PlainConvUNet, 4 stages, features 8 16 32 32`."""
    spec = model.network_spec
    features = spec["arch_kwargs"].get("features_per_stage", [])
    shown = " ".join(map(str, features)) if isinstance(features, list) else str(features)
    return f"{spec['network_class_name'].split('.')[-1]}, {len(model.configuration_manager.patch_size)}d, " \
           f"{spec['arch_kwargs'].get('n_stages')} stages, features {shown}"


def _readable(path: str) -> dict:
    """A file that is only nice to have: empty if it is missing or is not what nnU-Net writes."""
    try:
        with open(path) as f:
            value = json.load(f)
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
