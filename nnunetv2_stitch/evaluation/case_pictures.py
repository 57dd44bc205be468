"""Pictures of a few of the host's validation cases under every model, with the maps that a stitched ensemble can make.

What is on disk from nnU-Net's validation is used; the rest is predicted for these cases alone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.evaluation.case_look import DISAGREEMENT, STITCHED, look_at, mean_dice, parties_alone, picture
from nnunetv2_stitch.evaluation.entries import ModelEntry
from nnunetv2_stitch.evaluation.labels import Labels
from nnunetv2_stitch.evaluation.output import value_names
from nnunetv2_stitch.evaluation.page import Figure
from nnunetv2_stitch.evaluation.predicting import load_predictor
from nnunetv2_stitch.evaluation.segmentations import reader_for
from nnunetv2_stitch.evaluation.validated import Answer, Case
from nnunetv2_stitch.evaluation.worst_cases import upright, worst_slice
from nnunetv2_stitch.figures.case_panels import case_panels
from nnunetv2_stitch.figures.case_view import Panel, Row
from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.inference.maps import preprocessed, segmentation
from nnunetv2_stitch.nnunet_internals import training_files

if TYPE_CHECKING:
    import torch

    from nnunetv2_stitch.inference.images import ImagePredictor

MAPS = {DISAGREEMENT: "disagreement", "share_host": "A's share"}  # that are shown, and what they are called
MAPPED, PLAIN = "cases with maps", "cases"  # sections of the page


@dataclass(frozen=True)
class Site:
    """The host's files: dataset.json, the segmentations that its validation is held against, and its images by case,
    empty where they are not here."""

    dataset: str
    dataset_json: Mapping[str, Any]
    references: str
    images: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def ending(self) -> str:
        return self.dataset_json["file_ending"]

    @property
    def labels(self) -> Labels:
        return Labels.from_json(self.dataset_json["labels"])


def find_site(dataset: str) -> Site:
    """Of a dataset that is preprocessed here; its images are those of `nnUNet_raw`, where these are here too."""
    from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw
    folder = os.path.join(str(nnUNet_preprocessed), dataset)
    dataset_json = read_json(os.path.join(folder, "dataset.json"))
    raw, images = os.path.join(str(nnUNet_raw), dataset) if nnUNet_raw.is_set() else "", {}
    if os.path.isdir(os.path.join(raw, "imagesTr")) or (raw and dataset_json.get("dataset")):
        with contextlib.suppress(OSError, AssertionError):  # a part of the raw data only
            found = training_files(raw, dataset_json)
            images = {case: files["images"] for case, files in found.items()}
    return Site(dataset, dataset_json, os.path.join(folder, "gt_segmentations"), images)


def case_figures(site: Site, cases: Sequence[tuple[str, Case]], answers: Sequence[Answer],
                 device: torch.device, missing: list[str]) -> list[Figure]:
    """One figure per case: image, reference, each answer, and the maps of the answer that has some.

    Args:
        cases: what each is called, such as `best case`, and which it is.
        answers: all that are shown; the last is the result.
        missing: receives a line for everything that could not be shown, and why.
    """
    cases = [(name, key) for name, key in cases if all(map(os.path.isfile, site.images.get(key[1], ["?"])))
             and os.path.isfile(_reference(site, key))]
    if not cases:
        missing.append(f"Pictures of cases: the images of {site.dataset} are not in nnUNet_raw, or no case was "
                       f"validated.")
        return []
    masks: dict[Case, dict[str, np.ndarray]] = {key: {} for _, key in cases}
    heats: dict[Case, dict[str, np.ndarray]] = {key: {} for _, key in cases}
    # Answers with maps first: where the maps are made, their parties have answered too.
    for answer in sorted(answers, key=lambda a: not a.has_maps):
        try:
            for fold in dict.fromkeys(fold for fold, _ in masks):
                _answer(site, answer, answers, fold, masks, heats, device)
        except (StitchError, OSError) as error:
            missing.append(f"Pictures of {answer.name}: {str(error).rstrip('.')}.")
    names = [a.name for a in answers]
    return [_figure(site, name, key, {n: masks[key][n] for n in names if n in masks[key]}, heats[key])
            for name, key in cases]


def _answer(site: Site, answer: Answer, answers: Sequence[Answer], fold: int | str,
            masks: dict[Case, dict[str, np.ndarray]], heats: dict[Case, dict[str, np.ndarray]],
            device: torch.device) -> None:
    """Put one model's answers to the cases of a fold into `masks`, and its maps into `heats`."""
    predictor, alone, validation = None, {}, answer.validation(fold)
    for key in (key for key in masks if key[0] == fold):
        path, files = os.path.join(validation or "", key[1] + site.ending), list(site.images[key[1]])
        if answer.has_maps:
            predictor = predictor or _predictor(answer, fold, device)
            alone = alone or parties_alone(predictor)
            look = look_at(predictor, alone, files)
            said = {a.name: look.answers[a.mode or STITCHED] for a in answers
                    if a.folder == answer.folder and (a.mode or STITCHED) in look.answers}
            heats[key] = {MAPS[kind]: percent for kind, percent in look.percent.items() if kind in MAPS}
            masks[key].update(said)
        elif answer.name in masks[key]:
            continue
        elif validation is not None and os.path.isfile(path):
            masks[key][answer.name] = reader_for(site.ending, path, site.dataset_json).read_seg(path)[0][0]
        else:
            predictor = predictor or _predictor(answer, fold, device)
            masks[key][answer.name] = segmentation(predictor, *preprocessed(predictor, files))


def _predictor(answer: Answer, fold: int | str, device: torch.device) -> ImagePredictor:
    if fold not in answer.folds:
        raise StitchError(f"{answer.folder} has nothing for fold {fold}")
    return load_predictor(ModelEntry(answer.name, folder=answer.folder, mode=answer.mode or None),
                          [answer.folds[fold]], answer.checkpoint_name, device, True)


def _reference(site: Site, key: Case) -> str:
    return os.path.join(site.references, key[1] + site.ending)


def _figure(site: Site, name: str, key: Case, masks: Mapping[str, np.ndarray], heats: Mapping[str, np.ndarray],
            ) -> Figure:
    reader = reader_for(site.ending, _reference(site, key), site.dataset_json)
    (reference, *_), properties = reader.read_seg(_reference(site, key))
    image = picture(reader.read_images((site.images[key[1]][0],))[0])
    axis, index = worst_slice(reference, list(masks.values()), properties["spacing"])

    def cut(voxels: np.ndarray) -> np.ndarray:
        return upright(voxels.take(index, axis), axis, properties)

    underneath, label = cut(image), site.labels.main
    dice = {answer: mean_dice(reference, mask, site.labels) for answer, mask in masks.items()}
    panels = [Panel("image", underneath), Panel("reference", underneath, cut(reference)),
              *(Panel(answer, underneath, cut(mask), note=f"{dice[answer]:.3f}" if np.isfinite(dice[answer]) else "")
                for answer, mask in masks.items()),
              *(Panel(kind, underneath, heat=cut(heat)) for kind, heat in heats.items())]
    spacing = [s for a, s in enumerate(properties["spacing"]) if a != axis]
    where = f", slice {index}" if reference.shape[axis] > 1 else ""
    drawn = case_panels([Row("", panels, cut(reference), float(spacing[0] / spacing[1]))], value_names(site.labels))
    title = f"{name[0].upper()}{name[1:]}: {key[1]}{where}, fold {key[0]}"
    listed = ", ".join(f"{answer} {dice[answer]:.3f}" for answer in masks if np.isfinite(dice[answer]))
    return Figure("", title, f"Image of case {key[1]}{where}, alone and under the reference and the segmentations of "
                               f"{', '.join(masks)}{'; maps of ' + ' and '.join(heats) if heats else ''}. Dice, "
                               f"{label}: {listed or 'not known'}.", MAPPED if heats else PLAIN, drawn)
