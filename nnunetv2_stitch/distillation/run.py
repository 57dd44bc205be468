"""Teach a student in every fold, and validate."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from nnunetv2_stitch.command_lines import evaluating, predicting
from nnunetv2_stitch.distillation.page import write_student_page
from nnunetv2_stitch.distillation.prepare import DistillJob, DistillRequest, prepare
from nnunetv2_stitch.distillation.teacher import beyond_weights, taught_by
from nnunetv2_stitch.distillation.unlabelled import preprocess_unlabelled
from nnunetv2_stitch.environment import our_trainers_known
from nnunetv2_stitch.training.folds import trained
from nnunetv2_stitch.training.job import TrainingResult


@dataclass(frozen=True, kw_only=True)
class DistillResult(TrainingResult):
    """A finished student. `parameters` are of student and teacher; `taught_by` says in words what taught."""

    start: str
    parameters: tuple[int, int]
    taught_by: str


@our_trainers_known()
def distill(teacher: str, dataset: str | int, *, device: str | torch.device = "cuda", continue_training: bool = False,
            validate: bool = True, progress: bool = True, say: Callable[[str], None] = lambda line: None,
            **request) -> DistillResult:
    """Teach one plain network what a stitched ensemble knows, on the host's images.

    Args:
        **request: the other fields of `DistillRequest`. For these and all other arguments see `api.training.distill`.

    Raises:
        StitchError: bad input, before anything is written; or an image without labels that cannot be read.
    """
    job = prepare(DistillRequest(teacher, dataset, **request), continue_training)

    def unlabelled(job: DistillJob) -> None:
        if job.request.unlabelled is not None:
            preprocess_unlabelled(job.request.unlabelled, os.path.join(job.preprocessed_folder, job.record.unlabelled),
                                  job.plans, job.configuration, job.dataset_json, job.record.unlabelled_sha256,
                                  progress)

    doing = "training the student" + ("" if job.record.weight else ", without a teacher")
    device = torch.device(device)
    with trained(job, device, continue_training, say, doing, unlabelled, validate) as (job, dice):
        result = DistillResult.of(job, dice, start=job.record.start, parameters=job.parameters,
                                  taught_by=taught_by(beyond_weights(job.teacher), job.record.weight))
        result = replace(result, commands=(
            predicting(result, device, ", anywhere"),
            evaluating({"teacher": job.teacher.path, "student": job.model_folder}, job.folds, device)))
        if validate:
            write_student_page(job, result, device, say)
    return result
