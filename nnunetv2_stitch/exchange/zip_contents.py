"""What is in a zip: our own export, or a model folder as stock nnU-Net zips it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.exchange.card import CARD
from nnunetv2_stitch.exchange.manifest import PARTY, Manifest
from nnunetv2_stitch.exchange.plans_check import DATASET, PLANS
from nnunetv2_stitch.exchange.zips import MIB, Archive
from nnunetv2_stitch.gating.signature import SIGNATURE_FILE
from nnunetv2_stitch.parties.model_folder import FINAL
from nnunetv2_stitch.parties.untrusted_json import printable

MAX_JSON_BYTES = 8 * MIB
SHOWN = 20  # members that are named when they are left out


@dataclass(frozen=True)
class Contents:
    """One model of a zip. `weights` and `signatures` map folds to members, `used` names every member that is unpacked.
    """

    identifier: str
    plans: Any
    dataset_json: Any
    weights: Mapping[str, str]
    manifest: Manifest | None
    safetensors: bool
    prefix: str
    used: frozenset[str]
    signatures: Mapping[str, str] = field(default_factory=dict)

    def sha256_of(self, member: str) -> str | None:
        """As the sender noted it; None where no manifest came with the zip."""
        return self.manifest.files.get(member[len(self.prefix):]) if self.manifest else None


def read_contents(archive: Archive, model: str | None = None, checkpoint_name: str = FINAL) -> Contents:
    """The one model in the zip, or the one that `model` names: a folder in the zip, or the last part of its path.

    Raises:
        StitchError: no model, several, one without trained folds, or files that are no JSON.
    """
    names = set(archive.names)
    if PARTY in names:
        return _own(archive, names)
    found = _folders(names, checkpoint_name)
    wanted = [f for f in found if model is None or model in (f.rstrip("/"), f.rstrip("/").split("/")[-1])]
    if not found:
        there = ", ".join(printable(n) for n in sorted(names)[:5]) or "nothing"
        raise StitchError(f"{archive.path} holds no trained model (a folder TRAINER__PLANS__CONFIGURATION with "
                          f"{PLANS}, {DATASET} and fold_*/{checkpoint_name}) but {there}; ask for a zip made by "
                          f"nnUNetv2_export_party or nnUNetv2_export_model_to_zip")
    if len(wanted) != 1:
        raise StitchError(f"{archive.path} holds {len(found)} models: {', '.join(f.rstrip('/') for f in found)}; "
                          f"choose one with -m")
    prefix = wanted[0]
    weights = _folds(names, prefix, rf"fold_(all|\d{{1,3}})/{re.escape(checkpoint_name)}")
    manifest = _manifest(archive, prefix + PARTY) if prefix + PARTY in names else None
    signatures = _signatures(manifest, {f: f"fold_{f}/{SIGNATURE_FILE}" for f in weights}, prefix)
    used = {prefix + PLANS, prefix + DATASET, *weights.values(), *signatures.values()}
    if manifest is not None:
        used.add(prefix + PARTY)
        _require_complete(archive, manifest, used, names, prefix)
    return Contents(prefix.rstrip("/").split("/")[-1], _json(archive, prefix + PLANS), _json(archive, prefix + DATASET),
                    weights, manifest, False, prefix, frozenset(used), signatures)


def left_out(archive: Archive, contents: Contents) -> tuple[str, ...]:
    """Members that were not unpacked, the first of them by name. The model card is written anew."""
    rest = [n for n in archive.names if n not in contents.used and n != contents.prefix + CARD]
    more = [f"and {len(rest) - SHOWN} more"] if len(rest) > SHOWN else []
    return (*rest[:SHOWN], *more)


def _own(archive: Archive, names: set[str]) -> Contents:
    manifest = _manifest(archive, PARTY)
    weights = {f.fold: weights_member(f.fold) for f in manifest.folds}
    signatures = _signatures(manifest, {f: signature_member(f) for f in weights})
    used = {PARTY, PLANS, DATASET, *weights.values(), *signatures.values()}
    _require_complete(archive, manifest, used, names, "")
    return Contents(manifest.identifier, _json(archive, PLANS), _json(archive, DATASET), weights, manifest, True, "",
                    frozenset(used), signatures)


def weights_member(fold: int | str) -> str:
    """What the weights of a fold are called in an export of ours."""
    return f"fold_{fold}.safetensors"


def signature_member(fold: int | str) -> str:
    """What the signature of a fold is called in an export of ours."""
    return f"fold_{fold}_{SIGNATURE_FILE}"


def _signatures(manifest: Manifest | None, members: Mapping[str, str], prefix: str = "") -> dict[str, str]:
    """Of the folds that the sender lists one for."""
    return {fold: prefix + name for fold, name in members.items() if manifest and name in manifest.files}


def read_small(archive: Archive, contents: Contents, member: str) -> Any:
    """A member of JSON that the manifest lists. Raises StitchError if it is changed or not readable."""
    if hashlib.sha256(archive.read(member, MAX_JSON_BYTES)).hexdigest() != contents.sha256_of(member):
        raise changed(member)
    return _json(archive, member)


def _require_complete(archive: Archive, manifest: Manifest, used: set[str], names: set[str], prefix: str) -> None:
    """Every file has a sha256 and is what the sender exported, the model card included.

    Raises:
        StitchError: names the first that is missing on either side, or that was changed.
    """
    listed = {prefix + name for name in manifest.files}
    missing = sorted((used | listed) - names) or sorted(used - listed - {prefix + PARTY})
    if missing:
        raise StitchError(f"{archive.path} lacks {printable(missing[0])}, or {PARTY} does not give its sha256; ask the "
                          f"sender to export the model again")
    for name in (PLANS, DATASET, CARD):
        noted = manifest.files.get(name)
        if noted is not None and hashlib.sha256(archive.read(prefix + name, MAX_JSON_BYTES)).hexdigest() != noted:
            raise changed(prefix + name)


def changed(member: str) -> StitchError:
    return StitchError(f"{member} has another sha256 than {PARTY} gives: it was changed or damaged after the export; "
                       f"copy the zip again from its source")


def _folders(names: set[str], checkpoint_name: str) -> list[str]:
    """Model folders, each with a slash at its end."""
    folders = sorted(n[:-len(PLANS)] for n in names if n.endswith(f"/{PLANS}"))
    return [f for f in folders if f.rstrip("/").split("/")[-1].count("__") == 2 and f + DATASET in names
            and _folds(names, f, rf"fold_(all|\d{{1,3}})/{re.escape(checkpoint_name)}")]


def _folds(names: set[str], prefix: str, pattern: str) -> dict[str, str]:
    found = {match[1]: name for name in names if name.startswith(prefix)
             and (match := re.fullmatch(pattern, name[len(prefix):]))}
    return {fold: found[fold] for fold in sorted(found, key=lambda f: (f == "all", f.zfill(3)))}


def _manifest(archive: Archive, member: str) -> Manifest:
    return Manifest.from_json(_json(archive, member))


def _json(archive: Archive, member: str) -> Any:
    try:
        return json.loads(archive.read(member, MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:  # also UnicodeDecodeError
        raise StitchError(f"{archive.path}: {member} is not readable JSON ({printable(error)}); ask the sender to "
                          f"export the model again") from error
