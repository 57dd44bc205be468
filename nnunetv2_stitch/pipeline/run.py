"""Train the stitches of all folds, choose the position, deploy, validate."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from nnunetv2_stitch.distributed import in_group
from nnunetv2_stitch.environment import our_trainers_known
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.evaluation.result_page import remove_page
from nnunetv2_stitch.exchange.parents import Partner
from nnunetv2_stitch.fileio import read_json, write_json
from nnunetv2_stitch.folders import as_fold
from nnunetv2_stitch.parties.checkpoint import sha256
from nnunetv2_stitch.parties.read_cache import reading_once
from nnunetv2_stitch.pipeline.choosing import choose
from nnunetv2_stitch.pipeline.continuing import begun_otherwise, foreground_remarks
from nnunetv2_stitch.pipeline.deployment import deploy, deployed, deployed_gate, deployed_setting
from nnunetv2_stitch.pipeline.fold_run import FoldRun, carry_out, require_processes
from nnunetv2_stitch.pipeline.job import Job, Request
from nnunetv2_stitch.pipeline.job_locks import Claim
from nnunetv2_stitch.pipeline.measuring import measure
from nnunetv2_stitch.pipeline.next_steps import next_steps
from nnunetv2_stitch.pipeline.page import write_stitched_page
from nnunetv2_stitch.pipeline.prepare import prepare
from nnunetv2_stitch.pipeline.recorded import as_recorded
from nnunetv2_stitch.pipeline.reporting import StitchResult, figures_there, report, result_of
from nnunetv2_stitch.selection.rules import GUIDED
from nnunetv2_stitch.selection.sweep import SWEEP_FILE, Sweep, sweeps_of
from nnunetv2_stitch.stitching.plans import Stitching
from nnunetv2_stitch.stitching.supernet import STITCHES_FILE


@reading_once()
@our_trainers_known()
def train_stitch(dataset_a: str | int | None = None, dataset_b: str | int | None = None, *more: str | int | Partner,
                 device: str | torch.device = "cuda", num_gpus: int = 1, continue_training: bool = False,
                 only_validation: bool = False, only_selection: bool = False, sweeps: Sequence[str] = (),
                 prefer: str = "balanced", save_probabilities: bool = False, page: bool = True,
                 progress: bool = True, say: Callable[[str], None] = lambda line: None, **request) -> StitchResult:
    """Stitch the trained nnU-Net of `dataset_b`, and of any `more`, to that of `dataset_a`, using A's images alone.

    Args:
        device: where to compute. In a process group (`distributed.process_group`) the first process calls this within
            `fold_run.leading`, the others `follow`.
        page: write `report.html` at the end, with pictures of three cases; not of what is made for a comparison only.
        **request: the other fields of `Request`. For these and all other arguments see `api.training.stitch`.

    Raises:
        StitchError: bad input, before anything is written.
        LostProcess: one of several processes is gone.
    """
    if sweeps and not only_selection:
        raise StitchError("sweeps of partners are of a finished model: train first, then choose with only_selection")
    partners = tuple(p if isinstance(p, Partner) else Partner(p) for p in (*more, *request.pop("more", ())))
    job = prepare(Request(dataset_a, dataset_b, more=partners, **request),
                  continue_training or only_validation or only_selection)
    device = torch.device(device)
    require_processes(job.host.configuration_manager.batch_size, device, num_gpus)
    if in_group() and job.request.rule == GUIDED:
        raise StitchError("-rule guided searches in one process; train with another rule, then call the command with "
                          "--select -rule guided and without torchrun")
    with Claim(job, say) as claim:
        if only_selection:
            job = _trained_part(job)
            claim.take(job.folds)
        elif only_validation:
            _require_deployed(job)
            claim.take(job.folds)
        else:
            otherwise = begun_otherwise(job) if continue_training else []
            for remark in [*job.label_remarks, *foreground_remarks(job), *otherwise]:
                say(remark)
            claim.begin(continue_training)
            for fold in job.folds:
                if _fold_is_done(job, fold):
                    say(f"fold {fold}: stitches are trained")
                else:
                    say(f"fold {fold}: training the stitches ({job.request.fit})")
                    carry_out(_fold_run(job, fold, continue_training=continue_training, progress=progress,
                                        deploy=False), device, num_gpus)
            # One choice for all folds of the model, also those that earlier commands trained.
            job = replace(job, folds=[*job.folds, *claim.take_free(f for f in _other_folds(job)
                                                                   if _fold_is_done(job, f))])
        claim.note_places()
        with claim.choosing():
            found = sweeps_of(job.model_folder, job.folds)
            if only_validation:
                whole, result = _said_before(job, found, device)
            else:
                chosen = choose(job, found, device, sweeps, prefer, say)
                measured = measure(job, found, chosen, device, say)
                deploy(job, chosen, measured.gate)
                whole, result = job, report(job, found, chosen, measured)
        for fold in job.folds:
            if only_validation or save_probabilities or not _validated(job, fold, _summary(job, fold)):
                say(f"fold {fold}: validation with nnU-Net's sliding window")
                carry_out(_fold_run(job, fold, validate=True, save_probabilities=save_probabilities), device, num_gpus)
                write_json(_stamp(job, fold), _made_with(job, fold))
        result = replace(result, commands=next_steps(whole, result, device))
        if page and not job.request.comparison:
            write_stitched_page(whole, result, device, say)
        else:
            remove_page(job.model_folder)
    return result


def _fold_run(job: Job, fold: int | str, **options) -> FoldRun:
    return FoldRun(job.host.dataset_name, job.host.configuration, fold, job.trainer, job.request.plans_name, **options)


def _said_before(job: Job, sweeps: Sequence[Sweep], device: torch.device) -> tuple[Job, StitchResult]:
    """Of what is deployed, by its record; measured anew, without its gate, where no record tells."""
    others = [f for f in _other_folds(job) if _fold_is_done(job, f) and _validated(job, f, _summary(job, f))]
    if said := as_recorded(job, others):
        return said
    chosen, has_gate = deployed(job), deployed_gate(job, job.folds[0]) is not None
    measured = measure(job, sweeps, chosen, device, seek_gate=False, has_gate=has_gate)
    return job, result_of(job, chosen, measured, figures_there(job))


def _other_folds(job: Job) -> list[int | str]:
    host, *_ = Stitching.of(read_json(job.plans_file)["configurations"][job.host.configuration]).parents
    return sorted((f for f in map(as_fold, host.folds) if f not in job.folds), key=str)


def _fold_files(job: Job, fold) -> list[str]:
    return [os.path.join(job.model_folder, f"fold_{fold}", name)
            for name in ("checkpoint_final.pth", STITCHES_FILE, SWEEP_FILE)]


def _fold_is_done(job: Job, fold) -> bool:
    return all(os.path.isfile(f) for f in _fold_files(job, fold))


def stitches_are_trained(job: Job) -> bool:
    """Whether every fold of the job has been trained to its end and swept."""
    return all(_fold_is_done(job, f) for f in job.folds)


def _trained_part(job: Job) -> Job:
    """The job with all folds that are trained, because there is one choice for all of them.

    Raises:
        StitchError: a fold that was asked for by name is not trained, or none is.
    """
    if job.request.folds is not None:
        _require_deployed(job, "--select")
    trained = [f for f in (*job.folds, *_other_folds(job)) if _fold_is_done(job, f)]
    if not trained:
        raise StitchError(f"{job.model_folder} holds no trained fold to choose for; give --select the arguments of the "
                          f"training (-fit, -o_p, ...), or run without --select first")
    return replace(job, folds=trained)


def _require_deployed(job: Job, switch: str = "--val") -> None:
    for fold in job.folds:
        missing = [f for f in _fold_files(job, fold) if not os.path.isfile(f)]
        if missing:
            raise StitchError(f"{missing[0]} is missing: fold {fold} is not trained to its end; run without {switch} "
                              f"(with --c to go on)")


def _summary(job: Job, fold) -> str:
    return os.path.join(job.model_folder, f"fold_{fold}", "validation", "summary.json")


def _stamp(job: Job, fold) -> str:
    """Beside `summary.json`: what it was made with, because nnU-Net's file does not say."""
    return os.path.join(job.model_folder, f"fold_{fold}", "validation", "stitch_setting.json")


def _made_with(job: Job, fold) -> dict:
    gate = deployed_gate(job, fold)
    return {"setting": deployed_setting(job, fold).to_json(), **({} if gate is None else {"gate": gate}),
            "stitches": sha256(os.path.join(job.model_folder, f"fold_{fold}", STITCHES_FILE))}


def _validated(job: Job, fold, summary: str) -> bool:
    """Whether the validation folder was made with the stitches and the setting that are deployed now."""
    if not (os.path.isfile(summary) and os.path.isfile(_stamp(job, fold))):
        return False
    return read_json(_stamp(job, fold)) == _made_with(job, fold)
