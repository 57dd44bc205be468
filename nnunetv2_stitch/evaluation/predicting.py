"""Predictions of trained model folders, plain and stitched, with nothing from a folder executed."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.evaluation.entries import ModelEntry, TestSet
from nnunetv2_stitch.fileio import read_json, write_json
from nnunetv2_stitch.folders import files_in, names_in

if TYPE_CHECKING:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

RECORD = "predicted_with.json"
ALIKE = 30  # letters of a warning that may end in names of files


def prediction_folder(output: str, model: str, party: str) -> str:
    return os.path.join(output, "predictions", model, party)


def predict(entry: ModelEntry, cases: Mapping[str, Mapping[str, Sequence[str]]], output: str, *,
            folds: Sequence[int | str] | None = None, checkpoint_name: str = "checkpoint_final.pth",
            device: Any = "cpu", mirroring: bool = True, continue_prediction: bool = False, verbose: bool = False,
            each: Callable[[str, str], None] = lambda party, case: None,
            say: Callable[[str], None] = lambda line: None) -> dict[str, str]:
    """Predict test cases with one model folder, one case at a time; a case's file is whole or not there.

    Args:
        cases: test set -> case -> files of its channels, in their order.
        output: predictions go to `output/predictions/MODEL/TEST SET`.
        folds: None for all that are trained.
        continue_prediction: keep what the same model has predicted there.
        each: is told test set and case after every case.
        say: is told what nnU-Net's readers warn of (channels of other places, no spacing), once per test set.

    Returns:
        Test set -> folder.

    Raises:
        StitchError: the model is missing, broken, a cascade, or of another file format or number of channels; or
            files are in the way that were not predicted here, or, when continuing, by another model.
    """
    for party in cases:
        _require_ours(prediction_folder(output, entry.name, party))
    from nnunetv2_stitch.parties.checkpoint import sha256

    predictor = load_predictor(entry, folds, checkpoint_name, device, mirroring)
    ending = predictor.dataset_json["file_ending"]
    made_with = {"model": entry.name, "mode": entry.mode, "mirroring": mirroring, "checkpoints": predictor.checkpoints}
    found = {}
    for party, files in cases.items():
        warned: set[str] = set()
        folder = found[party] = prediction_folder(output, entry.name, party)
        images = {case: [sha256(c) for c in channels] for case, channels in files.items()}
        kept = _kept(folder, made_with, images, ending) if continue_prediction else set()
        for case in files:  # what another model left here must not pass for this one's when this is interrupted
            if case + ending not in kept and os.path.isfile(os.path.join(folder, case + ending)):
                os.remove(os.path.join(folder, case + ending))
        write_json(os.path.join(folder, RECORD), {**made_with, "images": images})
        with tempfile.TemporaryDirectory(prefix=".tmp", dir=folder) as temporary:
            for case, channels in files.items():
                if case + ending not in kept:
                    printed = io.StringIO()
                    with contextlib.nullcontext() if verbose else contextlib.redirect_stdout(printed):
                        predictor.predict_from_files_sequential([list(channels)], [os.path.join(temporary, case)])
                    for line in printed.getvalue().splitlines():
                        if line.startswith("WARNING") and line[:ALIKE] not in warned:
                            warned.add(line[:ALIKE])
                            say(f"{party}, case {case}: {line}")
                    if os.path.isfile(spacing := os.path.join(temporary, case + ".json")):  # beside a tif
                        os.replace(spacing, os.path.join(folder, case + ".json"))
                    os.replace(os.path.join(temporary, case + ending), os.path.join(folder, case + ending))
                each(party, case)
    return found


def _require_ours(folder: str) -> None:
    """Raises StitchError if there is anything in a folder that this did not write."""
    if os.path.isdir(folder) and names_in(folder) and not os.path.isfile(os.path.join(folder, RECORD)):
        raise StitchError(f"{folder} holds files that were not predicted by this command ({RECORD} is missing); choose "
                          f"another -o")


def _kept(folder: str, made_with: Mapping, images: Mapping[str, Sequence[str]], ending: str) -> set[str]:
    """Names of finished predictions of the same images in a folder. Raises StitchError if others made them."""
    if not os.path.isdir(folder) or not names_in(folder):
        return set()
    record = os.path.join(folder, RECORD)
    before = read_json(record) if os.path.isfile(record) else {}
    seen = before.pop("images", {})
    if before == made_with:
        same = {case + ending for case, files in images.items() if seen.get(case) == files}
        return same & set(files_in(folder))
    raise StitchError(f"{folder} holds predictions of another model, or made in another way; leave out --c to predict "
                      f"anew, or choose another -o")


def files_to_predict(entry: ModelEntry, test_set: TestSet, cases: Sequence[str],
                     ending: str) -> dict[str, list[str]]:
    """Case -> its channels' files, for a model folder; what is wrong is found before anything is predicted.

    Raises:
        StitchError: no images, another file format than the model's, or a case with too few or too many channels.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from nnunetv2_stitch.inference.images import require_channels
    from nnunetv2_stitch.parties.model_folder import channel_names

    dataset_json = read_json(os.path.join(entry.folder, "dataset.json"))
    if dataset_json.get("file_ending", ending) != ending:
        raise StitchError(f"model {entry.name} reads {dataset_json['file_ending']} files, dataset {test_set.name} has "
                          f"{ending}; convert the dataset, or predict elsewhere and give the predictions")
    if test_set.images_folder is None:
        raise StitchError(f"dataset {test_set.name} has no images ({test_set.folder} holds neither imagesTs nor "
                          f"images), so model {entry.name} cannot predict; add them, or give its predictions")
    files = {case: test_set.images_of(case, ending) for case in cases}
    missing = next((case for case, found in files.items() if not found), None)
    if missing is not None:
        raise StitchError(f"case {missing} of dataset {test_set.name} has no image {missing}_0000{ending} in "
                          f"{test_set.images_folder}, which model {entry.name} needs; add it, or take its label out")
    reader = PlansManager(os.path.join(entry.folder, "plans.json")).image_reader_writer_class()
    require_channels(files, len(channel_names(dataset_json)), reader)
    return files


def require_trained(entry: ModelEntry, folds: Sequence[int | str] | None,
                    checkpoint_name: str) -> tuple[bool, list[int | str]]:
    """Whether a model folder is stitched, and the folds to use; quick, for all models before any is predicted with.

    Raises:
        StitchError: a fold without this checkpoint, a plain model asked for a mode, or a cascade.
    """
    from nnunetv2_stitch.parties.model_folder import folds_to_use, read_model_folder
    from nnunetv2_stitch.stitching.plans import is_stitched

    configurations = read_json(os.path.join(entry.folder, "plans.json")).get("configurations", {})
    stitched = any(is_stitched(c) for c in configurations.values())
    if entry.mode and not stitched:
        raise StitchError(f"model {entry.name} is no stitched model, so it has no mode {entry.mode}; leave out "
                          f"@{entry.mode}")
    if not stitched and read_model_folder(entry.folder, checkpoint_name).is_cascaded:
        raise StitchError(f"{entry.folder} is the second stage of a cascade and needs the first one's segmentations; "
                          f"predict elsewhere and give the predictions")
    return stitched, folds_to_use(entry.folder, None if folds is None else list(folds), checkpoint_name)


def load_predictor(entry: ModelEntry, folds: Sequence[int | str] | None, checkpoint_name: str, device: Any,
                   mirroring: bool) -> nnUNetPredictor:
    """nnU-Net's predictor on a model folder; it has a further attribute `checkpoints`: fold -> sha256.

    Args:
        entry: the model; its mode, if it has one, is how a stitched ensemble answers.
        folds: None for all that are trained.
        mirroring: as nnU-Net does by default.

    Raises:
        StitchError: the folder is no model that can be used.
    """
    import torch

    from nnunetv2_stitch.inference.predictor import StitchedPredictor
    from nnunetv2_stitch.inference.stock_predictor import stock_predictor
    from nnunetv2_stitch.parties.checkpoint import sha256
    from nnunetv2_stitch.parties.model_folder import read_model_folder

    device = torch.device(device)
    stitched, chosen = require_trained(entry, folds, checkpoint_name)
    if stitched:
        predictor = StitchedPredictor(use_mirroring=mirroring, device=device, allow_tqdm=False,
                                      perform_everything_on_device=device.type == "cuda")
        predictor.initialize_from_trained_model_folder(entry.folder, chosen, checkpoint_name, entry.mode or "stitched")
    else:
        predictor = stock_predictor(read_model_folder(entry.folder, checkpoint_name), chosen, device, mirroring,
                                    checkpoint_name)
    predictor.checkpoints = {str(f): sha256(os.path.join(entry.folder, f"fold_{f}", checkpoint_name)) for f in chosen}
    return predictor
