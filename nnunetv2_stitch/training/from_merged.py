"""A merged model back at a party: trained on there with all its weights, for the next merge."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from nnunetv2.paths import nnUNet_preprocessed

from nnunetv2_stitch.bridging.model_properties import output_names
from nnunetv2_stitch.command_lines import ours, predicting, which
from nnunetv2_stitch.environment import our_trainers_known
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.exchange.parents import lasting_place, read_party
from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.parties.datasets import find_dataset
from nnunetv2_stitch.parties.model_folder import FINAL, ModelFolder, folds_to_use
from nnunetv2_stitch.parties.untrusted_json import printable
from nnunetv2_stitch.training.continuing import going_on
from nnunetv2_stitch.training.folds import train_folds
from nnunetv2_stitch.training.job import TrainingJob, TrainingResult, check_request, checked
from nnunetv2_stitch.training.member import read_member
from nnunetv2_stitch.training.records import FROM_MERGED, SEED, START_FLAGS, StartRecord, relative_to_results
from nnunetv2_stitch.training.request import TrainingRequest
from nnunetv2_stitch.training.site import find_site, require_configuration

EPOCHS, RATE = 100, 1e-3


class FromMerged(StartRecord):
    """A training that begins with a merged model."""

    key, command, trainer = FROM_MERGED, "nnUNetv2_train_party", "nnUNetTrainerFromMerged"
    file, kind, source, whose = "from_merged.json", "a training from a merged model", "merged model", "the party's"
    changed = "another checkpoint of the merged model (sha256 differs): it has been made anew since"
    flags = {"model": "-m", **START_FLAGS}


@dataclass(frozen=True)
class FromMergedRequest(TrainingRequest):
    """What the user asked for, one field per flag of nnUNetv2_train_party. `model`: folder or zip.
    `configuration` and `folds`: None for the model's. `plans_name`: what the plans written are called. `data_plans`:
    plans that the data were preprocessed with, None for the model's. `iterations`: None for nnU-Net's."""

    which: ClassVar = (*TrainingRequest.which, "model")
    otherwise: ClassVar = {"epochs": EPOCHS, "rate": RATE, "checkpoint_name": FINAL, "seed": SEED}

    model: str
    dataset: str | int
    configuration: str | None = None
    folds: Sequence[int | str] | None = None
    plans_name: str = "nnUNetFromMergedPlans"
    data_plans: str | None = None
    epochs: int | None = None
    iterations: int | None = None
    rate: float | None = None
    checkpoint_name: str | None = None
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class FromMergedJob(TrainingJob):
    """A checked request, with the model that is trained on from."""

    model: ModelFolder

    @property
    def source(self) -> ModelFolder:
        return self.model


def prepare(request: FromMergedRequest, continue_training: bool = False, dry_run: bool = False,
            unpack_into: str | None = None) -> FromMergedJob:
    """Find the merged model and the party's data, and check that they go together. Writes nothing but, where the model
    is a zip, the model itself (see `read_party`): training, and its continuation, read it there.

    Args:
        continue_training: what the request leaves open is as it was asked for when the folds under its name were begun.
        dry_run, unpack_into: see `checked` and `read_party`.

    Raises:
        StitchError: anything that stands in the way, in one line.
    """
    check_request(request.plans_name, request.rate)
    request, model = _found(request, continue_training, unpack_into)
    configuration = request.configuration or model.configuration
    require_configuration(configuration, [model])
    folds = list(request.folds or folds_to_use(model.path, None, model.checkpoint_name))
    begins: dict[str, dict] = {}
    for fold in folds:
        member = read_member(model, fold, printable(model.dataset_name, 80))
        begins[str(fold)] = member.as_start()
        site = find_site(request.dataset, configuration, fold, [member], request.plans_name, request.data_plans,
                         "the party's")
    if not site.same_labels:
        path = os.path.join(site.folder, "dataset.json")
        raise StitchError(f"{path}: labels are {', '.join(read_json(path)['labels'])}, which are not those of "
                          f"{model.path} ({', '.join(output_names(model))}); a model is trained on only where labels "
                          f"are the same")
    remarks = [f"Fold {ours} begins with fold {entry['fold']} of the merged model, which may have been trained on "
               f"validation cases of fold {ours}: its validation would then be too good."
               for ours, entry in begins.items() if entry["fold"] != ours]
    record = FromMerged(model=relative_to_results(lasting_place(model, unpack_into)), learning_rate=request.rate,
                        seed=request.seed, num_epochs=request.epochs, num_iterations_per_epoch=request.iterations,
                        folds=begins, asked=request.asked())
    return checked(FromMergedJob(model=model, dataset=site.dataset_name, configuration=configuration,
                                 plans_name=request.plans_name, folds=folds, record=record, plans=site.plans,
                                 remarks=remarks), continue_training, dry_run)


def _found(request: FromMergedRequest, continue_training: bool,
           unpack_into: str | None) -> tuple[FromMergedRequest, ModelFolder]:
    """The whole request, as it was begun with a model of this configuration, or as it is; and the model."""
    earlier = {}
    if continue_training:
        dataset = os.path.basename(find_dataset(nnUNet_preprocessed, "nnUNet_preprocessed", request.dataset))
        earlier = going_on(request, FromMerged, dataset)
    for configuration, before in earlier.items():
        model = read_party(before.model, before.complete().checkpoint_name, unpack_into)
        if model.configuration == configuration:
            return before.complete(), model
    request = request.complete()
    return request, read_party(request.model, request.checkpoint_name, unpack_into)


@our_trainers_known()
def train_from_merged(model: str, dataset: str | int, *, device: str | torch.device = "cuda",
                      continue_training: bool = False, validate: bool = True,
                      say: Callable[[str], None] = lambda line: None, **request) -> TrainingResult:
    """Train on from a merged model, or from any other model, with all its weights, on a party's own images.

    Args:
        model: the model as it was sent: a folder or a zip.
        dataset: the party's, by id or name, preprocessed here with the model's plans.
        device: where to compute.
        continue_training: go on after an interruption; folds and epochs that are done are kept.
        validate: predict each fold's validation cases, as nnU-Net does at the end of a training.
        say: receives one line per step.
        **request: the other fields of `FromMergedRequest`.

    Raises:
        StitchError: bad input, before anything is written.
    """
    job = prepare(FromMergedRequest(model, dataset, **request), continue_training)
    for line in job.remarks:
        say(line)
    job, dice = train_folds(job, torch.device(device), continue_training, say, "training on from the merged model",
                            validate=validate)
    result, device = TrainingResult.of(job, dice), torch.device(device)
    return replace(result, commands=(
        ("Send it to the centre", ours("nnUNetv2_export_party", *which(result), "-o", "FILE.zip", device=None)),
        predicting(result, device)))
