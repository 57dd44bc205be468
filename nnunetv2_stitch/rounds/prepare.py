"""Everything about a training from a merged model that is checked and decided before anything is written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from nnunetv2.paths import nnUNet_results

from nnunetv2_stitch.bridging.model_properties import output_names
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.exchange.parents import read_party
from nnunetv2_stitch.fileio import read_json, relative_path
from nnunetv2_stitch.folders import require_plans_name
from nnunetv2_stitch.inference.find import trained_folds
from nnunetv2_stitch.merging.members import Member, read_member
from nnunetv2_stitch.merging.site import find_site, require_configuration
from nnunetv2_stitch.parties.model_folder import FINAL, ModelFolder
from nnunetv2_stitch.parties.untrusted_json import printable
from nnunetv2_stitch.plain_training.continuing import with_earlier_folds
from nnunetv2_stitch.plain_training.job import PlainJob, check_folders
from nnunetv2_stitch.plain_training.records import relative_to_results
from nnunetv2_stitch.rounds.record import FLAGS, KEY, FromMerged

TRAINER = "nnUNetTrainerFromMerged"
EPOCHS, RATE = 100, 1e-3


@dataclass(frozen=True)
class FromMergedRequest:
    """What the user asked for, one field per flag of nnUNetv2_train_party. `model`: folder or zip.
    `configuration` and `folds`: None for the model's. `plans_name`: what the plans written are called. `data_plans`:
    plans that the data were preprocessed with, None for the model's. `iterations`: None for nnU-Net's."""

    model: str
    dataset: str | int
    configuration: str | None = None
    folds: Sequence[int | str] | None = None
    plans_name: str = "nnUNetFromMergedPlans"
    data_plans: str | None = None
    epochs: int = EPOCHS
    iterations: int | None = None
    rate: float = RATE
    checkpoint_name: str = FINAL
    seed: int = 12345


@dataclass(frozen=True)
class FromMergedJob(PlainJob):
    """A checked request: the merged model, folds, the record and the plans to be written."""

    model: ModelFolder
    dataset: str
    configuration: str
    plans_name: str
    folds: list[int | str]
    record: FromMerged
    plans: dict

    trainer, key, flags, name_flag = TRAINER, KEY, FLAGS, "-o_p"
    kind, whose = "a training from a merged model", "the party's"
    changed = "another checkpoint of the merged model (sha256 differs): it has been made anew since"


def prepare(request: FromMergedRequest, continue_training: bool = False) -> FromMergedJob:
    """Find the merged model and the party's data, and check that they go together. Writes nothing but, where the model
    is a zip, the model itself (see `read_party`): training, and its continuation, read it there.

    Raises:
        StitchError: anything that stands in the way, in one line.
    """
    require_plans_name(request.plans_name, "-o_p")
    if not nnUNet_results.is_set():
        raise StitchError("environment variable nnUNet_results is not set; set nnU-Net's three folders first")
    if not 0 < request.rate < float("inf"):
        raise StitchError(f"-lr {request.rate} is not a number above 0")
    model = read_party(request.model, request.checkpoint_name)
    configuration = request.configuration or model.configuration
    require_configuration(configuration, [model])
    folds = list(request.folds or trained_folds(model.path, None, model.checkpoint_name))
    begins: dict[str, dict] = {}
    for fold in folds:
        member = read_member(model, fold, printable(model.dataset_name, 80))
        begins[str(fold)] = _begin(member)
        site = find_site(request.dataset, configuration, fold, [member], request.plans_name, request.data_plans,
                         "the party's")
    if not site.same_labels:
        path = os.path.join(site.folder, "dataset.json")
        raise StitchError(f"{path}: labels are {', '.join(read_json(path)['labels'])}, which are not those of "
                          f"{model.path} ({', '.join(output_names(model))}); a model is trained on only where labels "
                          f"are the same")
    record = FromMerged(relative_to_results(model.path), request.rate, request.seed, request.epochs,
                        request.iterations, begins)
    job = with_earlier_folds(FromMergedJob(model, site.dataset_name, configuration, request.plans_name, folds, record,
                                           site.plans))
    check_folders(job, continue_training)
    return job


def _begin(member: Member) -> dict:
    inside = relative_path(member.path, member.model.path)
    return {"fold": str(member.fold), "checkpoint": inside, "sha256": member.sha256,
            "mirroring": list(member.mirroring)}
