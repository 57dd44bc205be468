"""What is there from earlier commands: whether it may be gone on with, and what of it must stay."""

from __future__ import annotations

import glob
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from nnunetv2_stitch.distillation.record import FLAGS, KEY, Distillation
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import read_json

if TYPE_CHECKING:
    from nnunetv2_stitch.distillation.prepare import DistillJob


def previous_plans(plans_file: str) -> dict | None:
    """Raises StitchError if the file holds plans of another kind."""
    if not os.path.isfile(plans_file):
        return None
    plans = read_json(plans_file)
    if any(KEY not in c for c in plans["configurations"].values()):
        raise StitchError(f"{plans_file} holds other plans, not of a distilled student; choose another name with -o_p")
    return plans


def merge_folds(job: DistillJob, previous: dict | None) -> Distillation:
    """The job's record, with the folds that earlier commands trained under the same name.

    Raises:
        StitchError: they were asked for otherwise.
    """
    others = {k: v for k, v in (previous or {}).items() if k not in ("configurations", "plans_name")}
    if previous and others != {k: v for k, v in job.plans.items() if k not in ("configurations", "plans_name")}:
        raise StitchError(f"{job.plans_file} was made from other plans; choose another name with -o_p")
    if job.configuration not in (previous or {}).get("configurations", {}):
        return job.record
    begun = sorted(glob.glob(os.path.join(glob.escape(job.model_folder), "fold_*")))
    if not begun:
        return job.record
    old = Distillation.of(previous["configurations"][job.configuration], job.request.plans_name)
    for name, flag in FLAGS.items():
        before, now = getattr(old, name), getattr(job.record, name)
        if before != now:
            said = "other images" if name == "unlabelled_sha256" else f"{'its default' if before is None else before}"
            raise StitchError(f"{begun[0]} was begun with {flag} {said}; go on with the same, or use -o_p NAME for "
                              f"another student")
    for fold, entry in job.record.folds.items():
        if os.path.isdir(job.fold_folder(fold)) and old.folds.get(fold, entry) != entry:
            raise StitchError(f"{job.fold_folder(fold)} was begun with another teacher or host (sha256 differs): the "
                              f"stitched model has been made or deployed anew since; use -o_p NAME for another student")
    return replace(job.record, folds={**old.folds, **job.record.folds})


def check_folders(job: DistillJob, continue_training: bool) -> None:
    """Raises StitchError if data are missing, folders cannot be written to, or a fold is there without `--c`."""
    data = os.path.join(job.preprocessed_folder, job.plans["configurations"][job.configuration]["data_identifier"])
    if not os.path.isdir(data):
        base = job.record.student if job.record.student != "host" else "the host's"
        raise StitchError(f"{data} does not exist: the images must be preprocessed here by {base} plans; run "
                          f"nnUNetv2_preprocess -d {job.dataset} -c {job.configuration}")
    fingerprint = os.path.join(job.preprocessed_folder, "dataset_fingerprint.json")
    if not os.path.isfile(fingerprint):
        raise StitchError(f"{fingerprint} does not exist; nnU-Net wants it for training: run "
                          f"nnUNetv2_extract_fingerprint -d {job.dataset}")
    results = os.path.dirname(os.path.dirname(job.model_folder))
    for folder in (job.preprocessed_folder, results):
        if not os.access(folder, os.W_OK):
            raise StitchError(f"no permission to write into {folder}; change its permissions or the nnU-Net folders")
    started = [f for f in job.folds if os.path.isdir(job.fold_folder(f))]
    if started and not continue_training:
        raise StitchError(f"{job.model_folder} already holds fold {started[0]}; add --c to go on, -o_p NAME to keep it "
                          f"and make another, or delete it")
