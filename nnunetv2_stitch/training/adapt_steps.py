"""What one may do with an adapted partner: commands to copy, made of the request that it was made by."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from nnunetv2.utilities.file_path_utilities import get_output_folder

from nnunetv2_stitch.command_lines import Command, ours, predicting
from nnunetv2_stitch.folders import folds_in
from nnunetv2_stitch.training.adapt_job import AdaptJob

if TYPE_CHECKING:
    from nnunetv2_stitch.training.adapt import AdaptResult

STITCHED = ("nnUNetTrainerStitchDirect", "nnUNetStitchPlans")  # what `nnUNetv2_train_stitch -fit direct` makes
OTHER = (0.3, 0.7)  # points of the line to try; the first that is not taken


def next_steps(job: AdaptJob, result: AdaptResult, device: torch.device) -> tuple[Command, ...]:
    """Predict, and use it beside the host's own model, first where that is better; and another point of the line.

    Args:
        job: that is done.
        device: where it was made.
    """
    alone = [predicting(result, device)]
    both = [f for f in result.folds if job.host is not None and f in job.host.folds]
    beside = [("Use it beside your own model: a gate chooses for each image",
               ours("nnUNetv2_train_stitch", "-m_a", job.host.path, "-m_b", result.model_folder, "-fit", "direct",
                    "-gate", "on", "-f", *both, *_other_name(job), device=device))] if both else []
    other = next(alpha for alpha in OTHER if alpha != result.alpha)
    again = replace(job.request.with_parties(job.host, job.partner), folds=tuple(result.folds), alpha=other)
    return (*(beside + alone if result.reached is False else alone + beside),
            ("Another point of the line, without training again",
             ours("nnUNetv2_adapt_party", *again.words(), "--c", device=device)))


def _other_name(job: AdaptJob) -> list[str]:
    """`-o_p NAME` where the host has been stitched before under the usual name, whose folds would be in the way."""
    folder = get_output_folder(job.host.dataset_name, *STITCHED, job.host.configuration)
    there = os.path.isdir(folder) and folds_in(folder)
    return ["-o_p", f"nnUNetStitch{job.plans_name.removeprefix('nnUNet')}"] if there else []
