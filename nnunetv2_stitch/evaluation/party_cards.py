"""What a page says of a model that took part: who made it, by whose leave, and what it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nnunetv2_stitch.exchange.manifest import adapted_from, licence_of, network_name, received_manifest
from nnunetv2_stitch.parties.model_folder import ModelFolder
from nnunetv2_stitch.parties.untrusted_json import printable
from nnunetv2_stitch.stitching.plans import ParentRecord

ASK = "not said: ask before you pass the result on"
LONGEST = 300  # letters of what another party wrote


@dataclass(frozen=True)
class Card:
    """A title and what is known, as (name, value)."""

    title: str
    facts: tuple[tuple[str, str], ...]


def card_of(title: str, model: ModelFolder, folds: Mapping[int | str, int | str], own: bool = False) -> Card:
    """Of a model folder.

    Args:
        folds: by fold of the result the model's own.
        own: it is the host's, who needs nobody's leave.

    Raises:
        StitchError: what came with the model cannot be read.
    """
    sent = received_manifest(model)
    licence, origin = licence_of(model), adapted_from(model)
    cases = sent.training_cases if sent is not None else model.dataset_json.get("numTraining")
    facts = [("Dataset", model.dataset_name),
             *([("Called by its sender", sent.name)] if sent is not None and sent.name != model.dataset_name else []),
             *([("Made from", origin)] if origin else []),
             ("Licence", licence or ("your own model" if own and sent is None else ASK)),
             *([("Contact", sent.contact)] if sent is not None and sent.contact else []),
             ("Trainer", model.trainer), ("Plans", model.plans_name), ("Configuration", model.configuration),
             ("Network", network_name(model)), ("Checkpoint", model.checkpoint_name), ("Folds", _folds(folds)),
             ("Labels", ", ".join(n for n in model.dataset_json["labels"] if n != "background")),
             ("Channels", ", ".join(model.channel_names)),
             ("Training cases", "not said" if cases is None else str(cases))]
    return Card(title, tuple((key, printable(value, LONGEST)) for key, value in facts))


def card_of_record(title: str, record: ParentRecord, own: bool = False) -> Card:
    """Of a parent that is known by its record alone, because its model folder is not here any more."""
    facts = [("Dataset", record.shown), ("Licence", record.licence or ("your own model" if own else ASK)),
             ("Trainer", record.trainer), ("Plans", record.plans), ("Configuration", record.configuration),
             ("Checkpoint", record.checkpoint),
             ("Folds", _folds({fold: entry["fold"] for fold, entry in record.folds.items()}))]
    return Card(title, tuple((key, printable(value, LONGEST)) for key, value in facts))


def _folds(folds: Mapping[int | str, int | str]) -> str:
    """Its own folds, with those of the result where they have other names."""
    return ", ".join(str(own) if str(own) == str(fold) else f"{own} (for fold {fold})" for fold, own in folds.items())


def letter(index: int) -> str:
    """A is the host, then come its partners."""
    return chr(ord("A") + index)


def alone(index: int, adapted: bool = False) -> str:
    """What a party is called that answers alone; `adapted`: its model was trained on with another's images."""
    return f"{letter(index)} {'adapted ' * adapted}alone"
