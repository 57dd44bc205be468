"""Pictures of a few of the host's validation cases under every model, with the maps that a stitched ensemble can make.

What is on disk from nnU-Net's validation is used; the rest is predicted for these cases alone.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.evaluation.entries import ModelEntry
from nnunetv2_stitch.evaluation.labels import Labels
from nnunetv2_stitch.evaluation.output import value_names
from nnunetv2_stitch.evaluation.page import Figure
from nnunetv2_stitch.evaluation.predicting import load_predictor
from nnunetv2_stitch.evaluation.segmentations import reader_for
from nnunetv2_stitch.evaluation.validated import Answer, Case, Measured
from nnunetv2_stitch.evaluation.worst_cases import upright, worst_slice
from nnunetv2_stitch.figures.case_view import Panel, Row, case_view
from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.inference.predictor import StitchedPredictor

DISAGREEMENT, SHARE = "disagreement", "A's share"
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
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets
    folder = os.path.join(str(nnUNet_preprocessed), dataset)
    dataset_json = read_json(os.path.join(folder, "dataset.json"))
    raw, images = os.path.join(str(nnUNet_raw), dataset) if nnUNet_raw.is_set() else "", {}
    if os.path.isdir(os.path.join(raw, "imagesTr")) or (raw and dataset_json.get("dataset")):
        with contextlib.suppress(OSError, AssertionError):  # a part of the raw data only
            found = get_filenames_of_train_images_and_targets(raw, dataset_json)
            images = {case: files["images"] for case, files in found.items()}
    return Site(dataset, dataset_json, os.path.join(folder, "gt_segmentations"), images)


def case_figures(site: Site, cases: Sequence[tuple[str, Case]], answers: Sequence[Answer], found: Measured,
                 folder: str, device: torch.device, missing: list[str]) -> list[Figure]:
    """One figure per case: image, reference, each answer, and maps of the last answer where it is a stitched ensemble.

    Args:
        cases: what each is called, such as `best case`, and which it is.
        answers: all that are shown; the last is the result.
        folder: where figures and predictions are written; for the caller to remove.
        missing: receives a line for everything that could not be shown, and why.
    """
    cases = [(name, key) for name, key in cases if all(map(os.path.isfile, site.images.get(key[1], ["?"])))
             and os.path.isfile(os.path.join(site.references, key[1] + site.ending))]
    if not cases:
        missing.append(f"Pictures of cases: the images of {site.dataset} are not in nnUNet_raw, or no case was "
                       f"validated.")
        return []
    keys = [key for _, key in cases]
    shown: dict[str, dict[Case, str]] = {}
    for answer in answers:
        try:
            shown[answer.name] = _segmentations(site, answer, keys, os.path.join(folder, str(len(shown))), device)
        except (StitchError, OSError) as error:
            missing.append(f"Pictures of {answer.name}: {_first_line(error)}.")
    maps = _maps(site, answers[-1], keys, folder, device, missing)
    return [_figure(site, name, key, shown, maps, found, os.path.join(folder, f"case_{number}.png"))
            for number, (name, key) in enumerate(cases)]


def _segmentations(site: Site, answer: Answer, keys: Sequence[Case], folder: str,
                   device: torch.device) -> dict[Case, str]:
    """Files of one model's answers; predicted into `folder` where its validation has left none."""
    found = {}
    for fold in dict.fromkeys(fold for fold, _ in keys):
        predictor, validation = None, answer.validation(fold)
        for case in (c for f, c in keys if f == fold):
            path = os.path.join(validation or "", case + site.ending)
            if validation is None or not os.path.isfile(path):
                predictor = predictor or _predictor(answer, fold, device)
                path = os.path.join(folder, f"{fold}_{case}{site.ending}")
                os.makedirs(folder, exist_ok=True)
                with contextlib.redirect_stdout(io.StringIO()):
                    predictor.predict_from_files_sequential([list(site.images[case])],
                                                            [path.removesuffix(site.ending)])
            found[fold, case] = path
    return found


def _predictor(answer: Answer, fold: int | str, device: torch.device):
    if fold not in answer.folds:
        raise StitchError(f"{answer.folder} has no fold for fold {fold}")
    return load_predictor(ModelEntry(answer.name, folder=answer.folder, mode=answer.mode or None),
                          [answer.folds[fold]], answer.checkpoint_name, device, True)


def _maps(site: Site, result: Answer, keys: Sequence[Case], folder: str, device: torch.device,
          missing: list[str]) -> dict[str, dict[Case, str]]:
    """Files of the maps in percent, by what they show; none of a model that is no stitched ensemble."""
    maps: dict[str, dict[Case, str]] = {}
    for fold in dict.fromkeys(fold for fold, _ in keys):
        predictor = _predictor(result, fold, device)
        if not isinstance(predictor, StitchedPredictor):
            return {}
        own = [key for key in keys if key[0] == fold]
        inputs = _inputs(site, own, os.path.join(folder, f"inputs_{fold}"))
        for kind, write in ((DISAGREEMENT, predictor.save_disagreement), (SHARE, predictor.save_share_maps)):
            target = os.path.join(folder, f"{kind}_{fold}")
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    written = write(inputs, target)
            except StitchError as error:
                missing.append(f"Map of {kind}: {_first_line(error)}.")
                continue
            if written:
                maps.setdefault(kind, {}).update(
                    {key: os.path.join(target, key[1] + site.ending) for key in own})
    return maps


def _inputs(site: Site, keys: Sequence[Case], folder: str) -> str:
    """The cases' images in a folder of their own, under the names that prediction expects."""
    os.makedirs(folder, exist_ok=True)
    for _, case in keys:
        for number, path in enumerate(site.images[case]):
            target = os.path.join(folder, f"{case}_{number:04d}{site.ending}")
            try:
                os.symlink(os.path.abspath(path), target)
            except OSError:  # not everyone may on Windows
                shutil.copyfile(path, target)
    return folder


def _figure(site: Site, name: str, key: Case, shown: Mapping[str, Mapping[Case, str]],
            maps: Mapping[str, Mapping[Case, str]], found: Measured, path: str) -> Figure:
    reference_file = os.path.join(site.references, key[1] + site.ending)
    reader = reader_for(site.ending, reference_file, site.dataset_json)
    reference, properties = reader.read_seg(reference_file)
    reference, (image, _) = reference[0], reader.read_images(tuple(site.images[key[1]]))
    masks = {answer: reader.read_seg(files[key])[0][0] for answer, files in shown.items()}
    heats = {kind: reader.read_seg(files[key])[0][0] for kind, files in maps.items() if key in files}
    axis, index = worst_slice(reference, list(masks.values()), properties["spacing"])

    def cut(voxels: np.ndarray) -> np.ndarray:
        return upright(voxels.take(index, axis), axis, properties)

    is_photo = len(image) == 3 and len(site.images[key[1]]) == 1  # one file with three channels
    grey = cut(np.moveaxis(image, 0, -1)) if is_photo else cut(image[0])
    label = site.labels.main
    dice = {answer: found.dice.get(answer, {}).get(key, {}).get(label, float("nan")) for answer in masks}
    panels = [Panel("image", grey), Panel("reference", grey, cut(reference)),
              *(Panel(answer, grey, cut(mask), note=f"{dice[answer]:.3f}" if np.isfinite(dice[answer]) else "")
                for answer, mask in masks.items()),
              *(Panel(kind, grey, heat=cut(heat)) for kind, heat in heats.items())]
    spacing = [s for a, s in enumerate(properties["spacing"]) if a != axis]
    where = f", slice {index}" if reference.shape[axis] > 1 else ""
    case_view([Row("", panels, cut(reference), float(spacing[0] / spacing[1]))], path, value_names(site.labels))
    title = f"{name[0].upper()}{name[1:]}: {key[1]}{where}, fold {key[0]}"
    listed = ", ".join(f"{answer} {dice[answer]:.3f}" for answer in masks if np.isfinite(dice[answer]))
    return Figure(path, title, f"Image of case {key[1]}{where}, alone and under the reference and the segmentations of "
                               f"{', '.join(masks)}{'; maps of ' + ' and '.join(heats) if heats else ''}. Dice, "
                               f"{label}: {listed or 'not known'}.", MAPPED if heats else PLAIN)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
