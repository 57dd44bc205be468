"""A partner's model from a zip, checked and written anew. Nothing in the zip is run; all of it is kept or nothing."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw, nnUNet_results

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.exchange.card import CARD, party_card
from nnunetv2_stitch.exchange.manifest import PARTY, Fold, Manifest, came_from_one_zip, network_name
from nnunetv2_stitch.exchange.model_check import CheckedModel, check_model
from nnunetv2_stitch.exchange.plans_check import DATASET, PLANS
from nnunetv2_stitch.exchange.weights import (
    Trained,
    clean_checkpoint,
    read_checkpoint,
    read_safetensors,
    with_duplicates,
    without_duplicates,
)
from nnunetv2_stitch.exchange.zip_contents import Contents, changed, left_out, read_contents, read_small
from nnunetv2_stitch.exchange.zips import Archive, open_archive, require_room
from nnunetv2_stitch.fileio import write_json
from nnunetv2_stitch.folders import DATASET_FOLDER, as_fold, names_in
from nnunetv2_stitch.gating.features import feature_count
from nnunetv2_stitch.gating.signature import SIGNATURE_FILE, Signature
from nnunetv2_stitch.parties.checkpoint import sha256
from nnunetv2_stitch.parties.model_folder import FINAL, ModelFolder, read_model_folder
from nnunetv2_stitch.parties.untrusted_json import is_name, printable, without_warnings

Say = Callable[[str], None]
HIGHEST = 999  # nnU-Net takes ids of three digits


def install_party(zip_path: str, alias: str, results: str | None = None, *, model: str | None = None,
                  checkpoint_name: str = FINAL, say: Say = lambda text: None) -> ModelFolder:
    """Unpack a partner's zip as a dataset of its own below nnUNet_results.

    Args:
        zip_path: made by nnUNetv2_export_party, or any zip that holds a model folder of nnU-Net.
        alias: `DatasetNNN_Name` with a free id, or `Name` for the highest free one.
        results: instead of nnUNet_results.
        model: which, if the zip holds several: a folder TRAINER__PLANS__CONFIGURATION in it.
        checkpoint_name: which checkpoint of a stock zip.
        say: told what was left out of the zip, and where the same file is installed already.

    Raises:
        StitchError: in one line, whatever is wrong with the zip, the name or the folder. Nothing is left behind.
    """
    results = results_folder(results)
    dataset = free_dataset_name(alias, results)
    target = os.path.join(results, dataset)
    with _staging(results) as staging:
        inside = os.path.join(staging, dataset)
        os.mkdir(inside)
        unpacked = _unpack(zip_path, inside, dataset, model, checkpoint_name, say)
        _move(inside, target)
    model_folder = read_model_folder(os.path.join(target, unpacked.identifier))
    if before := _installed_from_the_same(model_folder, results):
        say(f"the same file is installed as {' and '.join(before)} too; remove what you do not need")
    return model_folder


def _installed_from_the_same(model: ModelFolder, results: str) -> list[str]:
    """Other datasets that hold this model, from the same file."""
    found = []
    for dataset in sorted(n for n in names_in(results) if n.startswith("Dataset") and n != model.dataset_name):
        path = os.path.join(results, dataset, model.identifier)
        with suppress(StitchError):  # a damaged model, which is not to be judged here
            if os.path.isdir(path) and came_from_one_zip(read_model_folder(path), model):
                found.append(dataset)
    return found


def unpack_party(zip_path: str, folder: str, *, model: str | None = None, checkpoint_name: str = FINAL,
                 say: Say = lambda text: None) -> ModelFolder:
    """Unpack a partner's zip as `folder/TRAINER__PLANS__CONFIGURATION`. The folder is made if need be.

    Args:
        model: which one of a zip with several; None where there is one.
        checkpoint_name: the file that every fold must hold.
        say: is told each step in a line.

    Raises:
        StitchError: in one line, whatever is wrong with the zip or the folder. Nothing is left behind.
    """
    folder = os.path.abspath(folder)
    with _folder_made(folder), _staging(folder) as staging:
        unpacked = _unpack(zip_path, staging, None, model, checkpoint_name, say)
        target = os.path.join(folder, unpacked.identifier)
        _move(unpacked.path, target)
    return read_model_folder(target)


@contextmanager
def _folder_made(folder: str) -> Iterator[None]:
    """The folder and what is missing of the path to it; what was made here is gone again after a failure."""
    missing, path = [], folder
    while not os.path.exists(path):
        missing.append(path)
        path = os.path.dirname(path)
    try:
        os.makedirs(folder, exist_ok=True)
        yield
    except BaseException:
        for made in missing:
            with suppress(OSError):  # not empty: someone else works there
                os.rmdir(made)
        raise


@contextmanager
def _staging(folder: str) -> Iterator[str]:
    """A folder beside the target, so that the last step is a rename; gone afterwards, whatever happens."""
    try:
        staging = tempfile.mkdtemp(prefix=".unpacking_", dir=folder)
    except OSError as error:
        raise StitchError(f"cannot write into {folder} ({error.strerror}); choose a folder that you may write to"
                          ) from error
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _move(source: str, target: str) -> None:
    if os.path.lexists(target):
        raise StitchError(f"{target} exists already; remove it or choose another name")
    os.replace(source, target)


def _unpack(zip_path: str, folder: str, dataset: str | None, model: str | None, checkpoint_name: str,
            say: Say) -> ModelFolder:
    try:
        with without_warnings(), open_archive(zip_path) as archive:
            contents = read_contents(archive, model, checkpoint_name)
            require_room(folder, 2 * sum(map(archive.size, contents.used)))
            unpacked = _write_model(archive, contents, folder, dataset, checkpoint_name)
            if rest := left_out(archive, contents):
                say(f"left in the zip: {', '.join(rest)}")
            return unpacked
    except StitchError as error:
        # Files are checked where they were unpacked, which tells the user nothing; and no escape sequence of the
        # sender's may reach the terminal.
        text = str(error).replace(folder + os.sep, f"{zip_path}: ")
        start = "" if zip_path in text else f"{zip_path}: "
        raise StitchError(printable(start + text, 3000)) from error


def _write_model(archive: Archive, contents: Contents, folder: str, dataset: str | None,
                 checkpoint_name: str) -> ModelFolder:
    name = dataset or _name_of(contents)
    folds = tuple(map(as_fold, contents.weights))
    path = os.path.join(folder, contents.identifier)
    result = check_model(path, name, contents.identifier, contents.plans, contents.dataset_json, folds)
    os.mkdir(path)
    read = [_write_fold(archive, contents, fold, result, folder) for fold in folds]
    _write_signatures(archive, contents, result)
    write_json(os.path.join(path, PLANS), result.model.plans)
    write_json(os.path.join(path, DATASET), result.model.dataset_json)
    _write_manifest(path, _received(archive, contents, result, tuple(read), checkpoint_name))
    return read_model_folder(path)


def _write_fold(archive: Archive, contents: Contents, fold: int | str, result: CheckedModel, folder: str) -> Fold:
    """Unpack one fold's weights, check them, write them as a clean checkpoint."""
    member = contents.weights[str(fold)]
    received = os.path.join(folder, member.replace("/", "_"))  # one flat name: where a member lies is up to us
    archive.extract(member, received)
    noted = contents.sha256_of(member)
    if noted is not None and sha256(received) != noted:
        raise changed(member)
    said = next((f for f in contents.manifest.folds if f.fold == str(fold)), None) if contents.manifest else None
    if contents.safetensors:
        once = read_safetensors(received)
        trained = Trained({}, said.epochs, said.mirroring_axes, ())
    else:
        trained = read_checkpoint(received)
        once = without_duplicates(result.network, trained.weights, received)
    weights = with_duplicates(result.network, once, received)
    target = os.path.join(result.model.path, f"fold_{fold}")
    os.mkdir(target)
    with open(os.path.join(target, FINAL), "wb") as f:
        f.write(clean_checkpoint(result.model, fold, weights, trained.epochs, trained.mirroring_axes))
    os.remove(received)
    return Fold(str(fold), trained.mirroring_axes, trained.epochs, said.dice if said else None)


def _write_signatures(archive: Archive, contents: Contents, result: CheckedModel) -> None:
    """The folds' signatures, checked against their network."""
    for fold, member in contents.signatures.items():
        features = feature_count(result.network, result.model.num_input_channels)
        signature = Signature.from_json(read_small(archive, contents, member), features, member)
        write_json(os.path.join(result.model.path, f"fold_{fold}", SIGNATURE_FILE), signature.to_json())


def _write_manifest(path: str, manifest: Manifest) -> None:
    """party.json and the card, with the sha256 of the files as they are here."""
    names = [PLANS, DATASET, *(f"fold_{f.fold}/{FINAL}" for f in manifest.folds)]
    names += [f"fold_{f.fold}/{SIGNATURE_FILE}" for f in manifest.folds
              if os.path.isfile(os.path.join(path, f"fold_{f.fold}", SIGNATURE_FILE))]
    files = {name: sha256(os.path.join(path, *name.split("/"))) for name in names}
    with open(os.path.join(path, CARD), "w", encoding="utf-8") as f:
        f.write(party_card(replace(manifest, files=files)))
    files[CARD] = sha256(os.path.join(path, CARD))
    write_json(os.path.join(path, PARTY), replace(manifest, files=files).to_json())


def _received(archive: Archive, contents: Contents, result: CheckedModel, folds: tuple[Fold, ...],
              checkpoint_name: str) -> Manifest:
    """The manifest as sent, with what was checked here put in place of what was said; or one made for a stock zip."""
    model = result.model
    sent = contents.manifest or Manifest(
        _name_of(contents), model.trainer, model.plans_name, model.configuration, "", {}, (), None, (), checkpoint_name,
        licence=model.dataset_json.get("licence") or model.dataset_json.get("license") or "")
    return replace(sent, trainer=model.trainer, plans_name=model.plans_name, configuration=model.configuration,
                   network=network_name(model), labels=model.dataset_json["labels"],
                   channels=tuple(model.channel_names), training_cases=model.dataset_json.get("numTraining"),
                   folds=folds,
                   received_as={"dataset": model.dataset_name, "file": printable(os.path.basename(archive.path)),
                                "sha256": sha256(archive.path)})


def _name_of(contents: Contents) -> str:
    """What the sender calls the model: in the manifest, the folder around it, or its plans."""
    around = contents.prefix.rstrip("/").split("/")[-2:-1]
    said = contents.plans.get("dataset_name") if isinstance(contents.plans, dict) else None
    names = [contents.manifest.name if contents.manifest else None, *around, said]
    return next((n for n in names if is_name(n)), "Unnamed")


def results_folder(results: str | None = None) -> str:
    """`results`, or nnUNet_results. Raises StitchError if it is not set or does not exist."""
    folder = results or nnUNet_results.get()
    if not folder:
        raise StitchError("environment variable nnUNet_results is not set; set it to the folder for trained models")
    if not os.path.isdir(folder):
        raise StitchError(f"nnUNet_results {folder} does not exist; create it or set nnUNet_results to the folder for "
                          f"trained models")
    return os.path.abspath(folder)


def free_dataset_name(alias: str, results: str) -> str:
    """`DatasetNNN_Name` as given if its id is free; `Name` gets the highest id that is free.

    Looks into `results` and into nnUNet_raw and nnUNet_preprocessed where these are set.

    Raises:
        StitchError: not such a name, the id is taken, or no id is free.
    """
    taken = taken_ids([results, nnUNet_raw.get(), nnUNet_preprocessed.get()])
    whole = DATASET_FOLDER.fullmatch(alias)
    if not is_name(whole[2] if whole else alias) or (not whole and alias.lower().startswith("dataset")):
        raise StitchError(f"-as {printable(alias)}: give a name of letters, digits, - and single _, such as SiteB, or "
                          f"with a free id, such as Dataset{HIGHEST}_SiteB")
    if whole:
        if int(whole[1]) in taken:
            raise StitchError(f"-as {alias}: id {whole[1]} is taken by {taken[int(whole[1])]}; choose another id, or "
                              f"give -as {whole[2]} to take the next one that is free")
        return alias
    number = free_id(taken)
    if number is None:
        raise StitchError(f"all ids from 1 to {HIGHEST} are taken; remove a dataset from {results}")
    return f"Dataset{number:03d}_{alias}"


def taken_ids(folders: Sequence[str | None]) -> dict[int, str]:
    """Ids in use, with a folder that uses each. nnU-Net goes by the three digits after `Dataset`."""
    found: dict[int, str] = {}
    for folder in folders:
        for name in sorted(os.listdir(folder)) if folder and os.path.isdir(folder) else ():
            if digits := re.match(r"Dataset(\d{3})", name, re.IGNORECASE):
                found.setdefault(int(digits[1]), os.path.join(folder, name))
    return found


def free_id(taken: Collection[int]) -> int | None:
    """The highest that is left."""
    return next((n for n in range(HIGHEST, 0, -1) if n not in taken), None)
