"""Train a merged model on in every fold, and validate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from nnunetv2_stitch.environment import our_trainers_known
from nnunetv2_stitch.rounds.prepare import TRAINER, FromMergedJob, FromMergedRequest, prepare
from nnunetv2_stitch.training.claims import claimed
from nnunetv2_stitch.training.job import train_fold, validate_fold


@dataclass(frozen=True)
class FromMergedResult:
    """A finished training. `validation_dice`: nnU-Net's foreground mean by fold, of the validation cases; empty where
    nothing was validated. `remarks`: what the user must know, a line each."""

    model_folder: str
    dataset: str
    configuration: str
    trainer: str
    plans_name: str
    folds: list[int | str]
    validation_dice: dict[int | str, float]
    remarks: list[str]


@our_trainers_known()
def train_from_merged(model: str, dataset: str | int, *, device: str | torch.device = "cuda",
                      continue_training: bool = False, validate: bool = True,
                      say: Callable[[str], None] = lambda line: None, **request) -> FromMergedResult:
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
    device = torch.device(device)
    remarks = _remarks(job)
    for line in remarks:
        say(line)
    dice = {}
    with claimed(job, continue_training, say) as job:
        for fold in job.folds:
            trainer = train_fold(job, fold, device, continue_training, say, "training on from the merged model")
            if validate:
                dice[fold] = validate_fold(job, fold, device, trainer, say)
    return FromMergedResult(job.model_folder, job.dataset, job.configuration, TRAINER, job.plans_name, job.folds, dice,
                            remarks)


def _remarks(job: FromMergedJob) -> list[str]:
    other = {f: entry["fold"] for f in job.folds if (entry := job.record.of_fold(f))["fold"] != str(f)}
    return [f"Fold {ours} begins with fold {theirs} of the merged model, which may have been trained on validation "
            f"cases of fold {ours}: its validation would then be too good." for ours, theirs in other.items()]
