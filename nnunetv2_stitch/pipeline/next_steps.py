"""What one may do with a stitched model: commands to copy, made of the request that it was made by."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from nnunetv2_stitch.bridging.names import NO_MAPS
from nnunetv2_stitch.command_lines import CASES, Command, evaluating, ours, predicting, which
from nnunetv2_stitch.evaluation.party_cards import alone
from nnunetv2_stitch.exchange.parents import answers_by_itself
from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.pipeline.job import Job, Request, default_rule
from nnunetv2_stitch.stitching.plans import Stitching
from nnunetv2_stitch.stitching.setting import party_names

if TYPE_CHECKING:
    from nnunetv2_stitch.pipeline.reporting import StitchResult


def next_steps(job: Job, result: StitchResult, device: torch.device) -> tuple[Command, ...]:
    """Predict, look, evaluate, distil, and a gate where none was sought.

    Args:
        job: that is done, with all folds of the model.
        device: where it was made.
    """
    steps = [("Predict", ours("nnUNetv2_predict_stitched", *CASES, *which(result), device=device)),
             predicting(result, device, ", where this package is installed"),
             ("Look at a case", ours("nnUNetv2_stitch_view", "-m", job.model_folder, "-i", "IMAGE_FILE", "-l",
                                     "LABEL_FILE", "-o", "OUTPUT_FOLDER", device=device)),
             evaluating(_compared(job), job.folds, device, 1 + len(job.partners)),
             ("Teach one plain network what this one knows",
              ours("nnUNetv2_distill_stitched", "-m", job.model_folder, "-d", result.dataset, device=device))]
    is_gated = _configuration(job)["architecture"]["arch_kwargs"].get("gate") is not None
    if not (is_gated or job.request.gate) and job.request.output == "ensemble":
        steps.append(("Give each image its own shares of the parties",
                      ours("nnUNetv2_train_stitch", *_with_gate(job, result).words(), "--select", device=device)))
    return tuple(steps)


def _compared(job: Job) -> dict[str, str]:
    """By name, what an evaluation is given: a party's own model folder, or where that gives other answers than those
    that took part (see `answers_by_itself`) the party as the stitched model holds it."""
    parties, names = (job.host, *job.partners), (NO_MAPS, *(p.names for p in job.request.partners))
    models = {}
    for i, (model, folds, mode) in enumerate(zip(parties, own_folds(job), party_names(len(parties)))):
        itself = answers_by_itself(model, folds, names[i])
        models[alone(i, model.is_adapted)] = model.path if itself else f"{job.model_folder}@{mode}"
    return {**models, "plain ensemble": f"{job.model_folder}@ensemble", "stitched": job.model_folder}


def own_folds(job: Job) -> list[dict[int | str, int | str]]:
    """By fold of the model each party's own, also of folds that earlier commands trained."""
    parents = Stitching.of(_configuration(job)).parents
    return [{f: _fold(p.folds[str(f)]["fold"]) for f in job.folds if str(f) in p.folds} for p in parents]


def _configuration(job: Job) -> dict:
    return read_json(job.plans_file)["configurations"][job.host.configuration]


def _fold(name: str) -> int | str:
    return int(name) if str(name).isdecimal() else name


def _with_gate(job: Job, result: StitchResult) -> Request:
    """The request with a gate. What was chosen with partners' numbers stays, because their files may be gone."""
    asked = replace(job.request.with_parties(job.host, job.partners), folds=tuple(result.folds), gate=True)
    if result.choices:
        return replace(asked, position=tuple(c.position for c in result.choices), rule="3")
    by_default = job.request.rule == default_rule(job.request.position, job.request.gate)
    return replace(asked, rule=None) if by_default else asked
