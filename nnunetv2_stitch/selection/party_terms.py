"""How one party's images and labels read in the terms of a stitched model: by names, whatever their order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from nnunetv2_stitch.bridging.model_properties import output_names
from nnunetv2_stitch.bridging.names import NO_MAPS, NameMaps, match_names
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.parties.model_folder import ModelFolder


@dataclass(frozen=True)
class PartyTerms:
    """`channels`: for each channel of the model the party's. `renumber`: the party's label numbers to the model's,
    None where they are the same. `unlabelled`: which of the model's foreground labels the party does not have; they
    cannot be scored. `dataset_json`: the model's, with an ignore label where only the party has one. `of`: how many
    channels the party's images have."""

    channels: tuple[int, ...]
    renumber: Mapping[int, int] | None
    unlabelled: tuple[int, ...]
    dataset_json: dict
    of: int

    def renumbered(self, segmentation: np.ndarray, path: str) -> np.ndarray:
        """A segmentation in the model's numbers; `path` is for messages.

        Raises:
            StitchError: it holds a number that the party's dataset.json does not name.
        """
        if self.renumber is None:
            return segmentation
        result = np.zeros_like(segmentation)
        for value in np.unique(segmentation).tolist():
            if value not in self.renumber:
                raise StitchError(f"{path} holds label {value:g}, which the dataset.json of its dataset does not name; "
                                  f"correct either of them")
            result[segmentation == value] = self.renumber[value]
        return result


def party_terms(model: ModelFolder, dataset_json: dict, maps: NameMaps = NO_MAPS) -> PartyTerms:
    """Match a party's dataset.json to a stitched model's. Labels that only the party has become background.

    Raises:
        StitchError: not a dataset.json of nnU-Net, regions that differ, no label in common, or a channel missing.
    """
    try:
        party = replace(model, dataset_json=dataset_json)
        names = [party.channel_names, output_names(party)]
        regions = party.label_manager.has_regions
        if not names[0]:
            raise ValueError("no channel_names")
    except Exception as error:  # nnU-Net checks nothing, so any type of error may come from here
        raise StitchError(f"dataset.json of the dataset is not nnU-Net v2's ({type(error).__name__}: {error}); see "
                          f"nnU-Net's dataset_format.md") from error
    channels = match_names(model.channel_names, names[0], maps.channels, "channel")
    missing = [n for n, found in zip(model.channel_names, channels.sources) if not found]
    if missing:
        raise StitchError(f"the model needs channel {', '.join(missing)}, the dataset has {', '.join(names[0])}; if it "
                          f"has another name, give -channel_map")
    order = tuple(found[0] for found in channels.sources)
    if regions or model.label_manager.has_regions:
        return PartyTerms(order, *_same_regions(model, dataset_json), len(names[0]))
    return PartyTerms(order, *_labels(model, party, maps), len(names[0]))


def _same_regions(model: ModelFolder, dataset_json: dict) -> tuple:
    if dataset_json["labels"] != model.dataset_json["labels"]:
        raise StitchError("the model or the dataset has regions, and their labels differ: regions are compared only "
                          "where both dataset.json name the same labels with the same numbers")
    return None, (), model.dataset_json


def _labels(model: ModelFolder, party: ModelFolder, maps: NameMaps) -> tuple:
    ours, theirs = output_names(model), output_names(party)
    found = match_names(ours, theirs, maps.labels, "label")
    if not any(found.sources[1:]):
        raise StitchError(f"no label of the dataset ({', '.join(theirs[1:])}) has the name of one of the model's "
                          f"({', '.join(ours[1:])}); if they mean the same, give -label_map")
    renumber = {_number(party, n): 0 for n in found.unmatched}
    for name, sources in zip(ours, found.sources):
        renumber |= {_number(party, theirs[i]): _number(model, name) for i in sources}
    dataset_json, ignored = model.dataset_json, party.label_manager.ignore_label
    if ignored is not None:
        known = model.label_manager.ignore_label
        renumber[ignored] = max(model.label_manager.all_labels) + 1 if known is None else known
        dataset_json = {**dataset_json, "labels": {**dataset_json["labels"], "ignore": int(renumber[ignored])}}
    unlabelled = tuple(i for i, sources in enumerate(found.sources[1:]) if not sources)
    return renumber, unlabelled, dataset_json


def _number(party: ModelFolder, name: str) -> int:
    value = party.dataset_json["labels"][name]
    return int(value[0] if isinstance(value, (list, tuple)) else value)
