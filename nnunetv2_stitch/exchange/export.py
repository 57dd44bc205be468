"""One party's model as a zip for another party, without anything that the other does not need."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import safetensors.torch

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.exchange.alias import WHOLE
from nnunetv2_stitch.exchange.card import CARD, card
from nnunetv2_stitch.exchange.checked import Checked, checked
from nnunetv2_stitch.exchange.checkpoints import clean_checkpoint, read_checkpoint
from nnunetv2_stitch.exchange.clean import of_own_model
from nnunetv2_stitch.exchange.contents import signature_member
from nnunetv2_stitch.exchange.facts import (
    mean_dice,
    network_name,
    received_manifest,
    versions,
    versions_of_training,
)
from nnunetv2_stitch.exchange.manifest import PARTY, Fold, Manifest
from nnunetv2_stitch.exchange.plain import is_name, printable, without_warnings
from nnunetv2_stitch.exchange.signatures import signature_of_fold
from nnunetv2_stitch.exchange.weights import with_duplicates, without_duplicates
from nnunetv2_stitch.exchange.writing import ZipWriter, json_bytes
from nnunetv2_stitch.fileio import atomically
from nnunetv2_stitch.gating.signature import SIGNATURE_FILE
from nnunetv2_stitch.parties.checkpoint import sha256
from nnunetv2_stitch.parties.reading import FINAL, ModelFolder

PLANS, DATASET = "plans.json", "dataset.json"


@dataclass(frozen=True)
class Exported:
    """What was written, and what of the model folder was not."""

    path: str
    sha256: str
    size: int
    manifest: Manifest
    left_out: tuple[str, ...]


def weights_file(fold: int | str) -> str:
    return f"fold_{fold}.safetensors"


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
    result = _checked(model, _name(model, name, stock), chosen)
    if name is not None and "name" in result.model.dataset_json:
        result.model.dataset_json["name"] = result.model.dataset_name
    before = received_manifest(model)
    manifest = _manifest(result, before, checkpoint_name, licence, contact)
    written: list = []

    def write(temporary: str) -> None:
        with ZipWriter(temporary, f"{result.model.dataset_name}/{model.identifier}/" if stock else "") as archive:
            written.append(_write(archive, result, manifest, before, model, checkpoint_name, stock, signature, say))
    atomically(output, write)
    manifest, fields = written[0]
    left_out = (*_files_left_out(model.path, chosen, checkpoint_name, signature), *result.dropped,
                *([f"{checkpoint_name}: {', '.join(fields)}"] if fields else []))
    return Exported(output, sha256(output), os.path.getsize(output), manifest, left_out)


def _checked(model: ModelFolder, name: str, folds: tuple[int | str, ...]) -> Checked:
    try:
        with without_warnings():
            plans, dataset_json, dropped = of_own_model(model.plans, model.dataset_json, model.configuration,
                                                        model.configuration_manager.configuration)
            result = checked(model.path, name, model.identifier, plans, dataset_json, folds)
            return replace(result, dropped=(*dropped, *result.dropped))
    except StitchError as error:
        raise StitchError(f"{model.path} would be refused by the receiver: {error}") from error


def _write(archive: ZipWriter, result: Checked, manifest: Manifest, before: Manifest | None, source: ModelFolder,
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
            add(weights_file(fold), safetensors.torch.save(once, {"format": "pt"}), False)
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
    add(CARD, card(manifest).encode(), True)
    manifest = replace(manifest, files=dict(digests))
    archive.add(PARTY, json_bytes(manifest.to_json()), True)
    return manifest, tuple(sorted(fields))


def _manifest(result: Checked, before: Manifest | None, checkpoint_name: str, licence: str,
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
    if not stock or WHOLE.fullmatch(wanted):
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
