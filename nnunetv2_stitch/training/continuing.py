"""What earlier commands wrote into the plans of a training: whether it may be gone on with, and what of it stays."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.utilities.file_path_utilities import get_output_folder

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.folders import folds_in
from nnunetv2_stitch.training.records import TrainingRecord
from nnunetv2_stitch.training.request import Request

if TYPE_CHECKING:
    from nnunetv2_stitch.training.job import TrainingJob


def begun(kind: type[TrainingRecord], dataset: str, plans_name: str) -> dict[str, TrainingRecord]:
    """By configuration, the record of this kind that the folds under a name were begun with; empty where none are."""
    path = os.path.join(str(nnUNet_preprocessed), dataset, f"{plans_name}.json")
    configurations = read_json(path).get("configurations", {}) if os.path.isfile(path) else {}
    folders = {name: get_output_folder(dataset, kind.trainer, plans_name, name) for name in configurations}
    return {name: kind.of(configurations[name], plans_name) for name, folder in folders.items()
            if kind.key in configurations[name] and os.path.isdir(folder) and folds_in(folder)}


def going_on(request: Request, kind: type[TrainingRecord], dataset: str) -> dict[str, Request]:
    """By configuration in which folds are begun: the request with whatever it leaves open, folds included, as it was
    asked for then."""
    found = {}
    for name, record in begun(kind, dataset, request.plans_name).items():
        if request.configuration in (None, name):
            folds = request.folds or [f if f == "all" else int(f) for f in record.folds]
            found[name] = replace(request.going_on(record.before()), configuration=name, folds=folds)
    return found


def with_earlier_folds(job: TrainingJob) -> TrainingJob:
    """The job with its record in its plans, and with what earlier commands wrote into plans of that name.

    Raises:
        StitchError: the file holds plans of another kind, or folds that were asked for otherwise.
    """
    previous = _previous_plans(job)
    record = _merge_folds(job, previous)
    own = {**job.plans["configurations"][job.configuration], job.record.key: record.to_json()}
    configurations = {**(previous or {}).get("configurations", {}), job.configuration: own}
    return replace(job, record=record, plans={**job.plans, "configurations": configurations})


def _previous_plans(job: TrainingJob) -> dict | None:
    if not os.path.isfile(job.plans_file):
        return None
    plans = read_json(job.plans_file)
    if any(job.record.key not in c for c in plans["configurations"].values()):
        raise StitchError(f"{job.plans_file} holds other plans, not of {job.record.kind}; choose another name with "
                          "-o_p")
    return plans


def _merge_folds(job: TrainingJob, previous: dict | None):
    """The job's record, with the folds that earlier commands trained under the same name."""
    others = {k: v for k, v in (previous or {}).items() if k not in ("configurations", "plans_name")}
    if previous and others != {k: v for k, v in job.plans.items() if k not in ("configurations", "plans_name")}:
        raise StitchError(f"{job.plans_file} was made from other plans, so of another partner or model; choose another "
                          f"name with -o_p")
    if job.configuration not in (previous or {}).get("configurations", {}):
        return job.record
    if not os.path.isdir(job.model_folder) or not (begun := folds_in(job.model_folder)):
        return job.record
    old = type(job.record).of(previous["configurations"][job.configuration], job.plans_name)
    for name, flag in job.record.flags.items():
        before, now = getattr(old, name), getattr(job.record, name)
        moved = flag in ("-m", "-m_b") and any(old.folds.get(f) == entry for f, entry in job.record.folds.items())
        if before != now and not moved:  # a model is known by its sha256, wherever it lies by now
            said = "other images" if name.endswith("sha256") else f"{'its default' if before is None else before}"
            raise StitchError(f"{job.fold_folder(begun[0])} was begun with {flag} {said}; go on with the same, or use "
                              "-o_p NAME for another model")
    own = {str(f): job.record.folds[str(f)] for f in job.folds}
    for fold, entry in own.items():
        if os.path.isdir(job.fold_folder(fold)) and old.folds.get(fold, entry) != entry:
            raise StitchError(f"{job.fold_folder(fold)} was begun with {job.record.changed}; use -o_p NAME for "
                              f"another model")
    return replace(job.record, folds={**old.folds, **own})
