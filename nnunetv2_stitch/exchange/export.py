"""One party's model as a zip for another party, without anything that the other does not need."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import safetensors.torch
import torch
from nnunetv2.paths import nnUNet_preprocessed

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.exchange.card import CARD, party_card
from nnunetv2_stitch.exchange.manifest import (
    PARTY,
    Fold,
    Manifest,
    adapted_from,
    mean_dice,
    network_name,
    received_manifest,
    versions_of_training,
)
from nnunetv2_stitch.exchange.model_check import CheckedModel, check_model, network_as_trained
from nnunetv2_stitch.exchange.plans_check import DATASET, PLANS, what_travels
from nnunetv2_stitch.exchange.weights import clean_checkpoint, read_checkpoint, with_duplicates, without_duplicates
from nnunetv2_stitch.exchange.zip_contents import signature_member, weights_member
from nnunetv2_stitch.exchange.zips import ZipWriter, json_bytes
from nnunetv2_stitch.fileio import atomically
from nnunetv2_stitch.folders import DATASET_FOLDER
from nnunetv2_stitch.gating.features import feature_count, probe
from nnunetv2_stitch.gating.signature import SIGNATURE_FILE, Signature, read_signature
from nnunetv2_stitch.gating.tile_features import signature_of
from nnunetv2_stitch.graph.tracing import trace
from nnunetv2_stitch.parties.checkpoint import load_parent, load_weights, network_weights, sha256
from nnunetv2_stitch.parties.model_folder import FINAL, ModelFolder
from nnunetv2_stitch.parties.preprocessed import SPLITS
from nnunetv2_stitch.parties.untrusted_json import is_name, printable, without_warnings
from nnunetv2_stitch.provenance import versions


@dataclass(frozen=True)
class Exported:
    """What was written, and what of the model folder was not."""

    path: str
    sha256: str
    size: int
    manifest: Manifest
    left_out: tuple[str, ...]


def export_party(model: ModelFolder, output: str, *, folds: Sequence[int | str] | None = None,
                 checkpoint_name: str = FINAL, name: str | None = None, licence: str = "", contact: str = "",
                 stock: bool = False, signature: bool = True,
                 say: Callable[[str], None] = lambda text: None) -> Exported:
    """Write `model` to the zip `output`, which is replaced if it is there.

    Args:
        model: see `read_model_folder`.
        folds: default all that have `checkpoint_name`.
        name: what the model is called from now on, instead of its dataset's name.
        licence, contact: free text for the model card.
        stock: write a zip that stock nnU-Net installs and runs, instead of ours.
        signature: add what the training images look like to each fold's network, where they are preprocessed here.
        say: told which fold is being read, and where there is no signature.

    Raises:
        StitchError: a model that is stitched or cannot be stitched; a fold or checkpoint that is missing, damaged or
            does not fit the plans; a name that cannot be one; or an output that cannot be written.
    """
    if model.is_stitched:
        raise StitchError(f"{model.path} is a stitched model, which holds several parties' weights; export it with "
                          f"nnU-Net's own nnUNetv2_export_model_to_zip once all of them agree")
    output = _output_path(output)
    chosen = tuple(model.folds if folds is None else folds)
    if not chosen or len(set(chosen)) != len(chosen):
        raise StitchError(f"{model.path} has no fold with {checkpoint_name}; finish its training or choose with -chk"
                          if not chosen else "-f names a fold twice")
    for fold in chosen:
        model.checkpoint_path(fold, checkpoint_name)
    result = _check(model, _name(model, name, stock), chosen)
    if name is not None and "name" in result.model.dataset_json:
        result.model.dataset_json["name"] = result.model.dataset_name
    before = received_manifest(model)
    manifest = _manifest(result, before, checkpoint_name, licence, contact)
    manifest = replace(manifest, made_from=adapted_from(model) or (before.made_from if before else ""))
    written: list = []

    def write(temporary: str) -> None:
        with ZipWriter(temporary, f"{result.model.dataset_name}/{model.identifier}/" if stock else "") as archive:
            written.append(_write(archive, result, manifest, before, model, checkpoint_name, stock, signature, say))
    atomically(output, write)
    manifest, fields = written[0]
    left_out = (*_files_left_out(model.path, chosen, checkpoint_name, signature), *result.dropped,
                *([f"{checkpoint_name}: {', '.join(fields)}"] if fields else []))
    return Exported(output, sha256(output), os.path.getsize(output), manifest, left_out)


def _check(model: ModelFolder, name: str, folds: tuple[int | str, ...]) -> CheckedModel:
    try:
        with without_warnings():
            plans, dataset_json, dropped = what_travels(model.plans, model.dataset_json, model.configuration,
                                                        model.configuration_manager.configuration)
            result = check_model(model.path, name, model.identifier, plans, dataset_json, folds)
            return replace(result, dropped=(*dropped, *result.dropped))
    except StitchError as error:
        raise StitchError(f"{model.path} would be refused by the receiver: {error}") from error


def _write(archive: ZipWriter, result: CheckedModel, manifest: Manifest, before: Manifest | None, source: ModelFolder,
           checkpoint_name: str, stock: bool, signature: bool,
           say: Callable[[str], None]) -> tuple[Manifest, tuple[str, ...]]:
    """Returns the manifest with every fold and file, and the checkpoints' fields that were not taken."""
    model, folds, fields, digests = result.model, [], set(), {}

    def add(name: str, contents: bytes, packed: bool) -> None:
        archive.add(name, contents, packed)
        digests[name] = hashlib.sha256(contents).hexdigest()
    add(PLANS, json_bytes(model.plans), True)
    add(DATASET, json_bytes(model.dataset_json), True)
    for fold in model.folds:
        say(f"fold {fold}")
        path = source.checkpoint_path(fold, checkpoint_name)
        trained = read_checkpoint(path)
        once = without_duplicates(result.network, trained.weights, path)
        if stock:
            weights = with_duplicates(result.network, once, path)
            add(f"fold_{fold}/{FINAL}", clean_checkpoint(model, fold, weights, trained.epochs, trained.mirroring_axes),
                False)
        else:
            add(weights_member(fold), safetensors.torch.save(once, {"format": "pt"}), False)
        folder = os.path.dirname(path)
        found = signature_of_fold(source, fold, path, say) if signature else None
        if found is not None:
            add(f"fold_{fold}/{SIGNATURE_FILE}" if stock else signature_member(fold), json_bytes(found.to_json()), True)
        dice = mean_dice(folder, model.dataset_json["labels"])
        if dice is None and before is not None:
            dice = next((f.dice for f in before.folds if f.fold == str(fold)), None)
        folds.append(Fold(str(fold), trained.mirroring_axes, trained.epochs, dice))
        fields.update(trained.dropped)
    manifest = replace(manifest, folds=tuple(folds), files=dict(digests))
    add(CARD, party_card(manifest).encode(), True)
    manifest = replace(manifest, files=dict(digests))
    archive.add(PARTY, json_bytes(manifest.to_json()), True)
    return manifest, tuple(sorted(fields))


def _manifest(result: CheckedModel, before: Manifest | None, checkpoint_name: str, licence: str,
              contact: str) -> Manifest:
    """Without folds and files. Of a model that was itself received, licence and contact are passed on."""
    model = result.model
    first = os.path.join(model.path, f"fold_{model.folds[0]}")
    return Manifest(
        name=model.dataset_name, trainer=model.trainer, plans_name=model.plans_name,
        configuration=model.configuration, network=network_name(model), labels=model.dataset_json["labels"],
        channels=tuple(model.channel_names), training_cases=model.dataset_json.get("numTraining"), folds=(),
        checkpoint=checkpoint_name, licence=printable(licence or (before.licence if before else ""), 2000),
        contact=printable(contact or (before.contact if before else ""), 2000), exported_with=versions(),
        trained_with=versions_of_training(first) or (before.trained_with if before else {}))


def _output_path(output: str) -> str:
    output = os.path.abspath(output)
    if os.path.isdir(output) or not output.lower().endswith(".zip"):
        raise StitchError(f"-o {output} is no name of a zip; give a file that ends with .zip")
    if not os.path.isdir(os.path.dirname(output)):
        raise StitchError(f"folder {os.path.dirname(output)} does not exist; create it or choose another with -o")
    return output


def _name(model: ModelFolder, name: str | None, stock: bool) -> str:
    if name is not None and not is_name(name):
        raise StitchError(f"-name {printable(name)}: give letters, digits, -, dots and single _, such as Liver_SiteB")
    wanted = name or model.dataset_name
    if not is_name(wanted):
        raise StitchError(f"the dataset is called {printable(wanted)}, which is no name for a zip; give another with "
                          f"-name")
    if not stock or DATASET_FOLDER.fullmatch(wanted):
        return wanted
    digits = re.match(r"Dataset(\d{3})_", model.dataset_name)
    if name is None or not digits:
        raise StitchError("--stock needs a name that nnU-Net takes for a dataset; give -name DatasetNNN_NAME")
    return f"Dataset{digits[1]}_{name}"


def _files_left_out(folder: str, folds: Sequence[int | str], checkpoint_name: str,
                    signature: bool) -> Iterator[str]:
    """Files of the model folder that do not travel, those of one kind counted and not named one by one."""
    used = {os.path.join(f"fold_{fold}", checkpoint_name) for fold in folds} | {PLANS, DATASET}
    used |= {os.path.join(f"fold_{fold}", SIGNATURE_FILE) for fold in folds} if signature else set()
    for root, folders, files in os.walk(folder):
        folders.sort()
        below = os.path.relpath(root, folder)
        if below != "." and os.path.basename(root) in ("validation", "validation_highres") or below.count(os.sep) > 1:
            folders.clear()
            yield f"{below}{os.sep} ({len(files)} files; of summary.json the mean Dice is told)"
            continue
        for name in sorted(files):
            path = os.path.normpath(os.path.join(below, name))
            if path not in used:
                yield path


def signature_of_fold(model: ModelFolder, fold: int | str, checkpoint_path: str,
                      say: Callable[[str], None]) -> Signature | None:
    """Of the model's own images under the network of one fold; of a model that was received the one that came with it.
    None where there is neither, and then `say` is told why.

    Raises:
        StitchError: a checkpoint that does not fit the plans, or a signature that is none.
    """
    checkpoint = load_parent(checkpoint_path)
    network = network_as_trained(model, checkpoint.get("trainer_name"))
    load_weights(network, network_weights(checkpoint), checkpoint_path)
    missing = _missing_images(model, fold)
    if missing is not None:
        known = read_signature(os.path.dirname(checkpoint_path), feature_count(network, model.num_input_channels))
        if known is None:
            say(f"fold {fold}: no signature, because {missing}")
        return known
    features, _ = probe(trace(network), model.num_input_channels)
    try:
        return signature_of(features, model.preprocessed_folder, model.configuration_manager, fold,
                            torch.device("cpu"), checkpoint.get("inference_allowed_mirroring_axes"))
    except StitchError as error:
        say(f"fold {fold}: no signature, because {error}")
        return None


def _missing_images(model: ModelFolder, fold: int | str) -> str | None:
    """What of the preprocessed images is not here, in words."""
    if not nnUNet_preprocessed.is_set():
        return "environment variable nnUNet_preprocessed is not set"
    needed = [model.configuration_manager.data_identifier, *([] if fold == "all" else [SPLITS])]
    paths = (os.path.join(model.preprocessed_folder, name) for name in needed)
    return next((f"{path} does not exist" for path in paths if not os.path.exists(path)), None)
