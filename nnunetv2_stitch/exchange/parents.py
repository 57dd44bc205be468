"""Host and partners as a command names them: by dataset, by folder, or by a zip as it was sent; and what must be true
of a model before anything is made of it."""

from __future__ import annotations

import os
import string
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import combinations

import torch
from nnunetv2.paths import nnUNet_results

from nnunetv2_stitch.bridging.names import NO_MAPS, NameMaps
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.exchange.install import unpack_party
from nnunetv2_stitch.exchange.manifest import came_from_one_zip
from nnunetv2_stitch.exchange.model_check import require_network_of_plans
from nnunetv2_stitch.fileio import is_writable
from nnunetv2_stitch.folders import model_folders_in
from nnunetv2_stitch.locks import locked
from nnunetv2_stitch.parties.checkpoint import load_parent, load_weights, network_weights, sha256
from nnunetv2_stitch.parties.find import find_models, find_pair, select_model
from nnunetv2_stitch.parties.model_folder import FINAL, ModelFolder, read_model_folder
from nnunetv2_stitch.parties.untrusted_json import without_warnings
from nnunetv2_stitch.stitching.description import build_parent

UNPACKED = "stitch_parties"  # in nnUNet_results; stock nnU-Net does not look there


@dataclass(frozen=True)
class Partner:
    """One partner as the user names it: by `dataset` (id or name) or by `model`, a folder or zip. `fold` is of this
    model, for all folds of the host; `names`: what it calls labels and channels otherwise. `checkpoint_name`: None for
    the one that is named for all parties."""

    dataset: str | int | None = None
    model: str | None = None
    trainer: str | None = None
    plans: str | None = None
    fold: int | str | None = None
    names: NameMaps = NO_MAPS
    checkpoint_name: str | None = None


def partner_words(partners: Sequence[Partner], letters: str = string.ascii_uppercase[1:]) -> list[str]:
    """What is said of partners that are named by their models, as the commands take it: `-m_b` and all flags about B,
    each with one value for all partners or one for each. Maps of names that came from no file get a place to fill."""
    def said(flag: str, values: Sequence[object]) -> list[str]:
        values = ["-" if value is None else str(value) for value in values]
        alike = values[:1] if len(set(values)) == 1 else values
        return [] if alike == ["-"] else [flag, *alike]

    def maps(which: str, number: int) -> list[str | None]:
        return [p.names.files[number] or (f"{which}_OF_{letter}.json" if getattr(p.names, which.lower()) else None)
                for p, letter in zip(partners, letters)]

    return ["-m_b", *(p.model for p in partners), *said("-tr_b", [p.trainer for p in partners]),
            *said("-p_b", [p.plans for p in partners]), *said("-f_b", [p.fold for p in partners]),
            *said("-label_map", maps("LABELS", 0)), *said("-channel_map", maps("CHANNELS", 1)),
            *said("-chk_b", [p.checkpoint_name for p in partners])]


def found_partner(asked: Partner, model: ModelFolder) -> Partner:
    """As it was asked for, by the folder in which it was found: another model of its dataset may come beside it."""
    return replace(asked, dataset=None, model=model.path, trainer=None, plans=None,
                   checkpoint_name=None if model.checkpoint_name == FINAL else model.checkpoint_name)


def answers_by_itself(model: ModelFolder, folds: Mapping, names: NameMaps = NO_MAPS) -> bool:
    """Whether an evaluation of the model folder gives what took part: its final checkpoints, `folds` of the result that
    are its own by the same name, and the host's names."""
    return (model.checkpoint_name == FINAL and all(str(f) == str(own) for f, own in folds.items())
            and not names.labels and not names.channels)


def find_parties(dataset_a: int | str | None, model_a: str | None, configuration: str | None, trainer_a: str | None,
                 plans_a: str | None, partners: Sequence[Partner], checkpoint_name: str = FINAL,
                 checkpoint_a: str | None = None,
                 unpack_into: str | None = None) -> tuple[ModelFolder, list[ModelFolder]]:
    """The host and its partners, each by its dataset or by its model: a folder or a zip, wherever it lies. Each has the
    `checkpoint_name` that it is used with: `checkpoint_a`, the partner's own, or else the one for all.

    Args:
        unpack_into: see `read_party`.

    Raises:
        StitchError: see `find_pair` and `read_party`; or a party is given twice or not at all.
    """
    for i, (dataset, model) in enumerate([(dataset_a, model_a), *((p.dataset, p.model) for p in partners)]):
        if (dataset is None) == (model is None):
            name, flag = ("A", "-m_a") if i == 0 else (string.ascii_uppercase[i], "-m_b")
            raise StitchError(f"give party {name} either as DATASET_{name} or with {flag}, a model folder or a zip"
                              f"{', not both' if model is not None else ''}")
    own = checkpoint_a or checkpoint_name
    partners = [replace(p, checkpoint_name=p.checkpoint_name or checkpoint_name) for p in partners]
    first = partners[0]
    if model_a is None and first.model is None:
        host, partner = find_pair(dataset_a, first.dataset, configuration, trainer_a, first.trainer, plans_a,
                                  first.plans, own, checkpoint_b=first.checkpoint_name)
    else:
        given = [None if m is None else read_party(m, name, unpack_into)
                 for m, name in ((model_a, own), (first.model, first.checkpoint_name))]
        # The party that is asked for by dataset takes the configuration of the one that is not.
        configuration = configuration or next(m.configuration for m in given if m is not None)
        host = given[0] or select_model(dataset_a, configuration, trainer_a, plans_a, "host", own)
        partner = given[1] or select_model(first.dataset, configuration, first.trainer, first.plans, "partner",
                                           first.checkpoint_name)
    return host, [partner, *(_like(host, p, unpack_into) for p in partners[1:])]


def _like(host: ModelFolder, partner: Partner, unpack_into: str | None) -> ModelFolder:
    """A further partner: of several models the one that is trained as the host's."""
    if partner.model is not None:
        return read_party(partner.model, partner.checkpoint_name, unpack_into)
    models = find_models(partner.dataset, partner.checkpoint_name, configuration=host.configuration,
                         trainer=partner.trainer, plans=partner.plans)
    same = [m for m in models if m.identifier == host.identifier]
    return same[0] if len(same) == 1 else select_model(partner.dataset, host.configuration, partner.trainer,
                                                       partner.plans, "partner", partner.checkpoint_name)


def read_party(path: str, checkpoint_name: str = FINAL, unpack_into: str | None = None) -> ModelFolder:
    """A party's model: a model folder, a folder with one model folder in it, or a zip of either.

    A zip is unpacked once, into `stitch_parties` in nnUNet_results, under its own sha256: names of datasets cannot
    collide there, and stock nnU-Net does not look there.

    Args:
        unpack_into: a folder for zips that are not unpacked yet, for commands that write nothing.

    Raises:
        StitchError: not there, no model, several, or a zip that is refused.
    """
    path = os.path.abspath(path)
    if os.path.isfile(path):
        path = _unpacked(path, checkpoint_name, unpack_into)
        checkpoint_name = FINAL  # what it is called where it was unpacked
    elif os.path.isdir(path) and not os.path.isfile(os.path.join(path, "plans.json")):
        found = model_folders_in(path)
        if len(found) != 1:
            names = ", ".join(os.path.basename(f) for f in found) or "none"
            raise StitchError(f"{path} is no model folder and does not hold exactly one (found {names}); give the "
                              f"folder TRAINER__PLANS__CONFIGURATION itself")
        path = found[0]
    elif not os.path.exists(path):
        what = "zip" if path.lower().endswith(".zip") else "model folder or zip"
        raise StitchError(f"{path} does not exist; give a {what} that is there")
    model = read_model_folder(path, checkpoint_name)
    if not model.folds:
        raise StitchError(f"{path} has no fold with {checkpoint_name}: choose another with -chk")
    return model


def lasting_place(model: ModelFolder, unpack_into: str | None) -> str:
    """The model's folder; of one that is unpacked into another place only to be looked at, where a run unpacks it."""
    inside = unpack_into and os.path.relpath(model.path, unpack_into)
    if not inside or inside.split(os.sep)[0] == os.pardir:
        return model.path
    return os.path.join(str(nnUNet_results), UNPACKED, inside)


def _unpacked(path: str, checkpoint_name: str, into: str | None) -> str:
    """The model folder of a zip."""
    if into is None and not nnUNet_results.is_set():
        raise StitchError("environment variable nnUNet_results is not set; a zip is unpacked there")
    wanted = "" if checkpoint_name == FINAL else "_" + os.path.splitext(checkpoint_name)[0]
    name = sha256(path)[:16] + wanted
    lasting = [os.path.join(str(nnUNet_results), UNPACKED)] if nnUNet_results.is_set() else []
    folder = os.path.join(into or lasting[0], name)
    for there in (os.path.join(place, name) for place in (*lasting, *([into] if into else []))):
        if os.path.isdir(there) and (found := model_folders_in(there)):
            return found[0]
    if not is_writable(folder):
        raise StitchError(f"{path} has to be unpacked, and there is no permission to write into "
                          f"{into or nnUNet_results}; change that folder's permissions, or unpack the zip elsewhere "
                          f"and give the model folder")
    alone = locked(os.path.join(str(nnUNet_results), f".{name}.lock")) if into is None else nullcontext()
    with alone:  # jobs of several folds begin together
        found = model_folders_in(folder) if os.path.isdir(folder) else []
        return found[0] if found else unpack_party(path, folder, checkpoint_name=checkpoint_name).path


def require_parent(model: ModelFolder, fold: int | str) -> None:
    """What must be true of a model before anything is made of one of its folds; reads the checkpoint, writes nothing.

    Raises:
        StitchError: plans that name a class which may not be built, a checkpoint that is missing or refused, weights
            that are not those of the plans' network, or a trainer that builds another one.
    """
    path = model.checkpoint_path(fold)
    checkpoint = load_parent(path)
    with torch.device("meta"), without_warnings():  # that copying to the meta device does nothing
        network = build_parent(model.network_spec, model.num_input_channels, model.num_outputs)
        require_network_of_plans(model, network, checkpoint.get("trainer_name"))
        load_weights(network, network_weights(checkpoint), path)


def require_different(parties: Sequence[ModelFolder], folds: Sequence[Mapping]) -> None:
    """`folds`: each party's own, by those of the host.

    Raises:
        StitchError: two parties are one model, which has nothing to learn from itself.
    """
    for (one, of_one), (other, of_other) in combinations(zip(parties, folds), 2):
        for fold in of_one:
            paths = [m.checkpoint_path(f[fold]) for m, f in ((one, of_one), (other, of_other))]
            if os.path.samefile(*paths) or (of_one[fold] == of_other[fold] and came_from_one_zip(one, other)):
                raise StitchError(f"two parties are one model, {paths[0]}; give another party's model, or another fold "
                                  f"of this one with -f_b")
