"""Train the stitches of all folds, choose the position, deploy, validate."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from nnunetv2.paths import nnUNet_results
from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint
from nnunetv2.run.run_training import run_training as stock_run_training

from nnunetv2_stitch.environment import our_trainers_known
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.evaluation.figures import dice_over_position, matches
from nnunetv2_stitch.fileio import read_json, write_json
from nnunetv2_stitch.fitting.session import MATCHES_FIGURE, STITCHES_FILE
from nnunetv2_stitch.parties.checkpoint import load_checkpoint
from nnunetv2_stitch.pipeline.prepare import Job, Request, prepare
from nnunetv2_stitch.selection.deploy import deploy_fold, load_supernet, write_setting
from nnunetv2_stitch.selection.fold import SWEEP_FILE
from nnunetv2_stitch.selection.rules import choose, label_free_agreement
from nnunetv2_stitch.selection.sweep import Sweep
from nnunetv2_stitch.stitching.network import SETTING_KEY, decode_setting
from nnunetv2_stitch.stitching.setting import Setting

SELECTION_FILE = "stitch_selection.json"


@dataclass(frozen=True)
class StitchResult:
    """A finished stitched model. `position` is the chosen one, of the first fold where folds differ (rule 1, loo);
    `table` has one row per fold: Dice on the host's validation cases of A, B, plain ensemble and the stitched
    ensemble at each rule's choice."""

    model_folder: str
    dataset: str
    configuration: str
    trainer: str
    plans_name: str
    folds: list[int | str]
    position: int
    position_name: str
    positions: dict[int | str, int]
    table: list[dict]
    remarks: list[str]
    figures: list[str]


@our_trainers_known()
def train_stitch(dataset_a: str | int, dataset_b: str | int, *, device: str | torch.device = "cuda",
                 num_gpus: int = 1, continue_training: bool = False, only_validation: bool = False,
                 save_probabilities: bool = False, progress: bool = True,
                 say: Callable[[str], None] = lambda line: None, **request) -> StitchResult:
    """Stitch the trained nnU-Net of `dataset_b` to that of `dataset_a`, using A's images alone.

    Args:
        dataset_a, dataset_b: host and partner, by dataset id or name, as nnU-Net takes them.
        device: where to compute; `num_gpus` > 1 trains with DDP as nnU-Net does.
        continue_training: go on after an interruption, folds and steps that are done are kept.
        only_validation: only repeat the validation of the deployed folds.
        save_probabilities: keep the validation's probabilities (npz) for nnUNetv2_find_best_configuration.
        progress: show progress bars.
        say: receives one line per step.
        **request: the other fields of `Request`.

    Raises:
        StitchError: bad input, before anything is written.
    """
    job = prepare(Request(dataset_a, dataset_b, **request), continue_training or only_validation)
    device = torch.device(device)
    if only_validation:
        _require_deployed(job)
    else:
        write_json(job.plans_file, job.plans)
        for fold in job.folds:
            if _fold_is_done(job, fold):
                say(f"fold {fold}: stitches are trained")
            else:
                say(f"fold {fold}: training the stitches ({job.request.fit})")
                _train_fold(job, fold, device, num_gpus, continue_training, progress)
        # One choice for all folds of the model, also those that earlier commands trained.
        job = replace(job, folds=[*job.folds, *(f for f in _other_folds(job) if _fold_is_done(job, f))])
    result = select_and_deploy(job, deploy=not only_validation)
    for fold in job.folds:
        summary = os.path.join(job.model_folder, f"fold_{fold}", "validation", "summary.json")
        if only_validation or save_probabilities or not _validated(job, fold, summary):
            say(f"fold {fold}: validation with nnU-Net's sliding window")
            _validate_fold(job, fold, device, save_probabilities)
            write_json(_stamp(job, fold), {"setting": _deployed_setting(job, fold).to_json()})
    return result


def _other_folds(job: Job) -> list[int | str]:
    record = job.plans["configurations"][job.host.configuration]["stitching"]["parents"][0]
    folds = [f if f == "all" else int(f) for f in record["folds"]]
    return sorted((f for f in folds if f not in job.folds), key=str)


def _fold_files(job: Job, fold) -> list[str]:
    return [os.path.join(job.model_folder, f"fold_{fold}", name)
            for name in ("checkpoint_final.pth", STITCHES_FILE, SWEEP_FILE)]


def _fold_is_done(job: Job, fold) -> bool:
    return all(os.path.isfile(f) for f in _fold_files(job, fold))


def stitches_are_trained(job: Job) -> bool:
    """Whether every fold of the job has been trained to its end and swept."""
    return all(_fold_is_done(job, f) for f in job.folds)


def _require_deployed(job: Job) -> None:
    for fold in job.folds:
        missing = [f for f in _fold_files(job, fold) if not os.path.isfile(f)]
        if missing:
            raise StitchError(f"{missing[0]} is missing: fold {fold} is not trained to its end; run without --val "
                              f"(with --c to go on)")


def _trainer(job: Job, fold, continue_training: bool, device: torch.device):
    return get_trainer_from_args(job.host.dataset_name, job.host.configuration, fold, job.trainer,
                                 job.request.plans_name, continue_training, device)


def _train_fold(job, fold, device, num_gpus, continue_training, progress) -> None:
    if num_gpus > 1:
        stock_run_training(job.host.dataset_name, job.host.configuration, str(fold), job.trainer,
                           job.request.plans_name, num_gpus=num_gpus, continue_training=continue_training,
                           device=device)
        return
    trainer = _trainer(job, fold, continue_training, device)
    trainer.disable_progress_bar = not progress
    maybe_load_checkpoint(trainer, continue_training, False)
    trainer.run_training()


def _validate_fold(job, fold, device, save_probabilities) -> None:
    trainer = _trainer(job, fold, False, device)
    maybe_load_checkpoint(trainer, False, True)
    trainer.perform_actual_validation(save_probabilities)


def _stamp(job: Job, fold) -> str:
    """Beside `summary.json`: the setting it was made with, because nnU-Net's file does not say."""
    return os.path.join(job.model_folder, f"fold_{fold}", "validation", "stitch_setting.json")


def _deployed_setting(job: Job, fold) -> Setting:
    path = os.path.join(job.model_folder, f"fold_{fold}", "checkpoint_final.pth")
    weights = load_checkpoint(path)["network_weights"]
    if SETTING_KEY not in weights:
        raise StitchError(f"{path} holds no stitched ensemble; delete its folder and train fold {fold} again")
    return decode_setting(weights[SETTING_KEY])


def _validated(job: Job, fold, summary: str) -> bool:
    """Whether the validation folder was made with the setting that is deployed now."""
    if not (os.path.isfile(summary) and os.path.isfile(_stamp(job, fold))):
        return False
    return read_json(_stamp(job, fold))["setting"] == _deployed_setting(job, fold).to_json()


def select_and_deploy(job: Job, deploy: bool = True) -> StitchResult:
    """Choose by the request's rule from the folds' sweeps; write setting, checkpoints, `stitch_selection.json` and
    the figure. Unless `deploy`: take what is deployed and write nothing."""
    sweeps = [Sweep.from_json(read_json(os.path.join(job.model_folder, f"fold_{f}", SWEEP_FILE))) for f in job.folds]
    if deploy:
        positions = choose(sweeps, job.request.rule, job.fixed_position)
        settings = {f: Setting.average_at(p, output=job.request.output, combine=job.request.combine)
                    for f, p in positions.items()}
    else:
        settings = {f: _deployed_setting(job, f) for f in job.folds}
        positions = {f: min(s.switches) for f, s in settings.items()}
    table = _table(job, sweeps, positions, settings[job.folds[0]].output)
    first = positions[job.folds[0]]
    result = StitchResult(
        model_folder=job.model_folder, dataset=job.host.dataset_name, configuration=job.host.configuration,
        trainer=job.trainer, plans_name=job.request.plans_name, folds=job.folds, position=first,
        position_name=job.layout.position_name(first), positions=positions, table=table,
        remarks=_remarks(table),
        figures=[os.path.join(job.model_folder, f) for f in ("dice_over_position.png", MATCHES_FIGURE)],
    )
    if not deploy:
        return result
    plans_files = [job.plans_file, os.path.join(job.model_folder, "plans.json")]
    write_setting(plans_files, job.host.configuration, settings[job.folds[0]])
    plans = read_json(job.plans_file)
    for fold in job.folds:
        network = load_supernet(plans, job.host.configuration, job.host.dataset_json, fold, job.model_folder,
                                str(nnUNet_results))
        deploy_fold(network, os.path.join(job.model_folder, f"fold_{fold}"), settings[fold])
    write_json(os.path.join(job.model_folder, SELECTION_FILE), {
        "rule": job.request.rule, "positions": {str(f): p for f, p in positions.items()},
        "names": {str(f): job.layout.position_name(p) for f, p in positions.items()},
        "settings": {str(f): s.to_json() for f, s in settings.items()},
        "validation_dice": table, "remarks": result.remarks, "seed": job.request.seed,
        "label_free_spearman": {str(s.fold): label_free_agreement(s) for s in sweeps},
    })
    dice_over_position([s.to_json() for s in sweeps], first, result.figures[0])
    matches(*job.layout.nodes, job.layout.pairs(), result.figures[1], chosen=first)
    return result


def _table(job: Job, sweeps: list[Sweep], chosen: dict, output: str) -> list[dict]:
    rules = ["1", "2"] + (["loo"] if len(sweeps) > 1 else [])
    choices = {f"rule {r}": choose(sweeps, r) for r in rules}
    if job.request.rule == "3":
        choices["rule 3"] = chosen
    rows = []
    for sweep in sweeps:
        values = sweep.values(output)
        row = {"fold": sweep.fold, "A": sweep.baselines["host"], "B": sweep.baselines["partner"],
               "plain ensemble": sweep.baselines["ensemble"]}
        for name, choice in choices.items():
            row[name] = values[sweep.positions.index(choice[sweep.fold])]
        row["chosen"] = values[sweep.positions.index(chosen[sweep.fold])]
        rows.append(row)
    return rows


def _remarks(table: list[dict]) -> list[str]:
    """Plain words where the chosen setting is no better on validation than doing less."""
    mean = {k: float(np.mean([row[k] for row in table])) for k in ("A", "plain ensemble", "chosen")}
    return [f"On A's validation cases the stitched ensemble ({mean['chosen']:.3f}) is worse than {what} "
            f"({mean[key]:.3f})." for key, what in (("A", "A alone"), ("plain ensemble", "the plain ensemble"))
            if round(mean["chosen"], 3) < round(mean[key], 3)]
