"""Everything about a distillation that is checked and decided before anything is written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from nnunetv2.paths import nnUNet_preprocessed, nnUNet_results
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_stitch.distillation.record import HOST, Distillation
from nnunetv2_stitch.distillation.student import require_same_terms, student_plans
from nnunetv2_stitch.distillation.teacher import beyond_weights, load_teacher, read_teacher, require_patch
from nnunetv2_stitch.distillation.unlabelled import fingerprint
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.inference.images import require_images
from nnunetv2_stitch.parties.checkpoint import load_parent, load_weights, network_weights, sha256
from nnunetv2_stitch.parties.datasets import find_dataset
from nnunetv2_stitch.parties.model_folder import (
    BASELINE_KEY,
    DISTILLED_KEY,
    FINAL,
    MADE_KEYS,
    ModelFolder,
    folds_to_use,
)
from nnunetv2_stitch.stitching.description import build_parent
from nnunetv2_stitch.stitching.plans import ParentRecord, Stitching, count_parameters
from nnunetv2_stitch.training.continuing import going_on
from nnunetv2_stitch.training.job import TrainingJob, check_request, checked
from nnunetv2_stitch.training.records import SEED, relative_to_results
from nnunetv2_stitch.training.request import TrainingRequest


@dataclass(frozen=True)
class DistillRequest(TrainingRequest):
    """What the user asked for, one field per flag of nnUNetv2_distill_stitched. None means: choose sensibly.
    `comparison` marks what is only trained for a comparison, as every student without teacher is."""

    which: ClassVar = (*TrainingRequest.which, "teacher", "comparison")
    otherwise: ClassVar = {"student": HOST, "weight": 1.0, "seed": SEED}

    teacher: str
    dataset: str | int
    configuration: str | None = None
    folds: Sequence[int | str] | None = None
    student: str | None = None
    unlabelled: str | None = None
    start: str | None = None
    weight: float | None = None
    epochs: int | None = None
    iterations: int | None = None
    plans_name: str = "nnUNetDistilledPlans"
    seed: int | None = None
    comparison: bool = False


@dataclass(frozen=True, kw_only=True)
class DistillJob(TrainingJob):
    """A checked request, with the teacher. `parameters` are of student and teacher."""

    request: DistillRequest
    teacher: ModelFolder
    dataset_json: dict
    parameters: tuple[int, int]

    memory = None  # the teacher's is not estimated

    @property
    def source(self) -> ModelFolder:
        return self.teacher

    @property
    def written(self) -> list[str]:
        images = self.record.unlabelled
        return [*super().written, *([os.path.join(self.preprocessed_folder, images)] if images else [])]


def prepare(request: DistillRequest, continue_training: bool = False, dry_run: bool = False) -> DistillJob:
    """Find the teacher, the student's plans and the images, and check that they go together; writes nothing.

    Args:
        continue_training: what the request leaves open is as it was asked for when the folds under its name were begun.
        dry_run: see `checked`.

    Raises:
        StitchError: anything that stands in the way, in one line.
    """
    check_request(request.plans_name)
    teacher = read_teacher(request.teacher)
    dataset = os.path.basename(find_dataset(nnUNet_preprocessed, "nnUNet_preprocessed", request.dataset,
                                            ", and run nnUNetv2_plan_and_preprocess for it first"))
    if continue_training:
        earlier = going_on(request, Distillation, dataset)
        request = earlier.get(teacher.configuration) or next(iter(earlier.values()), request)
    request = request.complete()
    _check_request(request)
    folds = folds_to_use(teacher.path, None if request.folds is None else list(request.folds), FINAL)
    configuration = request.configuration or teacher.configuration
    plans = student_plans(request.student, dataset, configuration, teacher)
    dataset_json = read_json(os.path.join(str(nnUNet_preprocessed), dataset, "dataset.json"))
    require_same_terms(dataset_json, teacher, dataset)
    manager = PlansManager(plans)
    own = manager.get_configuration(configuration)
    require_patch(teacher, own.patch_size)
    spec = own.configuration["architecture"]
    student = build_parent(spec, teacher.num_input_channels, teacher.num_outputs)
    start = request.start or (HOST if spec == _parents(teacher)[0] else "scratch")
    host = _host_record(teacher)
    entries = {str(f): _fold_entry(teacher, f, host, student if start == HOST else None) for f in folds}
    record = Distillation(
        teacher=relative_to_results(teacher.path), student=request.student, start=start, weight=request.weight,
        seed=request.seed, num_epochs=request.epochs, num_iterations_per_epoch=request.iterations,
        host={"folder": host.folder, "checkpoint": host.checkpoint} if start == HOST else {}, folds=entries)
    if request.unlabelled is not None:
        request = replace(request, unlabelled=os.path.abspath(request.unlabelled))  # --c may be called elsewhere
        ending = dataset_json["file_ending"]
        cases = require_images(request.unlabelled, ending, teacher.num_input_channels,
                               manager.image_reader_writer_class())
        record = replace(record, unlabelled=f"{request.plans_name}_{configuration}_unlabelled", unlabelled_cases=cases,
                         unlabelled_sha256=fingerprint(request.unlabelled, ending))
    record = replace(record, asked=request.asked())
    plans.update(plans_name=request.plans_name, dataset_name=dataset)
    for key in MADE_KEYS:  # the teacher's own, not the student's
        plans.pop(key, None)
    plans[BASELINE_KEY if request.comparison or not request.weight else DISTILLED_KEY] = True
    network, _ = load_teacher(teacher, folds[0])
    return checked(DistillJob(request=request, teacher=teacher, dataset=dataset, configuration=configuration,
                              plans_name=request.plans_name, dataset_json=dataset_json, folds=folds, record=record,
                              plans=plans, parameters=(count_parameters(student), count_parameters(network))),
                   continue_training, dry_run)


def _check_request(request: DistillRequest) -> None:
    if request.start not in (None, HOST, "scratch"):
        raise StitchError(f"-start {request.start} is neither host nor scratch")
    if not 0 <= request.weight < float("inf"):
        raise StitchError(f"-weight {request.weight} is not a number of at least 0")
    if request.unlabelled is not None and request.weight == 0:
        raise StitchError("-unlabelled needs a teacher: with -weight 0 images without labels teach nothing")


def _parents(teacher: ModelFolder) -> list[dict]:
    return teacher.configuration_manager.network_arch_init_kwargs["parents"]


def _host_record(teacher: ModelFolder) -> ParentRecord:
    found = Stitching.find(teacher.configuration_manager.configuration)
    if found is None or not found.parents:
        raise StitchError(f"{teacher.path}/plans.json does not say which model the host is; was it made by "
                          f"nnUNetv2_train_stitch?")
    return found.parents[0]


def _fold_entry(teacher: ModelFolder, fold: int | str, host: ParentRecord, student) -> dict:
    """What a fold is taught by and begins with; both are read once, so that a broken file is found now."""
    load_teacher(teacher, fold)
    entry = {"teacher": sha256(teacher.checkpoint_path(fold)), **beyond_weights(teacher)}
    if student is None:
        return entry
    if str(fold) not in host.folds:
        raise StitchError(f"{teacher.path}/plans.json names no fold of the host for fold {fold}; use -start scratch")
    path = host.path(fold, str(nnUNet_results))
    if not os.path.isfile(path):
        raise StitchError(f"{path}, the host's model that the student is to start from, does not exist; put it back, "
                          f"or use -start scratch")
    load_weights(student, network_weights(load_parent(path)), path)
    if sha256(path) != host.sha256(fold):
        raise StitchError(f"{path} is not the host's model that was stitched (sha256 differs); put that one back, or "
                          f"use -start scratch")
    return {**entry, "host": host.folds[str(fold)]["fold"], "host_sha256": host.sha256(fold)}
