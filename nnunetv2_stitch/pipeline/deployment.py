"""The choice of a position among what is trained, its deployment in all folds, and what is recorded of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from nnunetv2.paths import nnUNet_results

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.evaluation.figures import dice_over_position, matches
from nnunetv2_stitch.evaluation.figures.positions_plane import positions_plane
from nnunetv2_stitch.exchange.card import CARD
from nnunetv2_stitch.exchange.stitched_card import stitched_card
from nnunetv2_stitch.fileio import read_json, write_json, write_text
from nnunetv2_stitch.fitting.session import MATCHES_FIGURE
from nnunetv2_stitch.parties.checkpoint import load_checkpoint
from nnunetv2_stitch.pipeline.prepare import Job
from nnunetv2_stitch.selection.deploy import deploy_fold, load_supernet, write_setting
from nnunetv2_stitch.selection.fold import SWEEP_FILE
from nnunetv2_stitch.selection.rules import choose, label_free_agreement
from nnunetv2_stitch.selection.sweep import Sweep
from nnunetv2_stitch.selection.with_partners import Choice, choose_with_partners
from nnunetv2_stitch.stitching.network import SETTING_KEY, decode_setting
from nnunetv2_stitch.stitching.setting import Setting

SELECTION_FILE = "stitch_selection.json"
PARETO_FIGURE = "pareto.png"


@dataclass(frozen=True)
class StitchResult:
    """A finished stitched model. `position` is the chosen one, of the first fold where folds differ (rule 1, loo);
    `table` has one row per fold: Dice on the host's validation cases of A, B, plain ensemble and the stitched
    ensemble at each rule's choice. `choice` is there where partners' numbers took part."""

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
    choice: Choice | None = None


def deployed_setting(job: Job, fold) -> Setting:
    path = os.path.join(job.model_folder, f"fold_{fold}", "checkpoint_final.pth")
    weights = load_checkpoint(path)["network_weights"]
    if SETTING_KEY not in weights:
        raise StitchError(f"{path} holds no stitched ensemble; delete its folder and train fold {fold} again")
    return decode_setting(weights[SETTING_KEY])


def select_and_deploy(job: Job, deploy: bool = True, files: Sequence[str] = (), prefer: str = "balanced",
                      ) -> StitchResult:
    """Choose from the folds' sweeps by the request's rule, or with partners' sweeps (`files`) on the Pareto front;
    write setting, checkpoints, `stitch_selection.json` and figures. Unless `deploy`: take what is deployed and write
    nothing."""
    sweeps = [Sweep.from_json(read_json(os.path.join(job.model_folder, f"fold_{f}", SWEEP_FILE))) for f in job.folds]
    choice = choose_with_partners(job.model_folder, sweeps, files, prefer, job.request.output) if files else None
    if deploy:
        rule, fixed = ("3", choice.position) if choice else (job.request.rule, job.fixed_position)
        positions = choose(sweeps, rule, fixed)
        settings = {f: Setting.average_at(p, output=job.request.output, combine=job.request.combine)
                    for f, p in positions.items()}
    else:
        settings = {f: deployed_setting(job, f) for f in job.folds}
        positions = {f: min(s.switches) for f, s in settings.items()}
    table = _table(job, sweeps, positions, settings[job.folds[0]].output)
    first = positions[job.folds[0]]
    result = StitchResult(
        model_folder=job.model_folder, dataset=job.host.dataset_name, configuration=job.host.configuration,
        trainer=job.trainer, plans_name=job.request.plans_name, folds=job.folds, position=first,
        position_name=job.layout.position_name(first), positions=positions, table=table,
        remarks=[*_remarks(table), *(choice.remarks if choice else ())],
        figures=[os.path.join(job.model_folder, f) for f in
                 ("dice_over_position.png", MATCHES_FIGURE, *([PARETO_FIGURE] if choice else []))], choice=choice,
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
        "rule": "pareto" if choice else job.request.rule,
        **({"pareto": choice.to_json()} if choice else {}), "positions": {str(f): p for f, p in positions.items()},
        "names": {str(f): job.layout.position_name(p) for f, p in positions.items()},
        "settings": {str(f): s.to_json() for f, s in settings.items()},
        "validation_dice": table, "remarks": result.remarks, "seed": job.request.seed,
        "label_free_spearman": {str(s.fold): label_free_agreement(s) for s in sweeps},
    })
    text = stitched_card(plans, job.host.configuration, job.host.dataset_json, table, result.remarks)
    write_text(os.path.join(job.model_folder, CARD), text)
    dice_over_position([s.to_json() for s in sweeps], first, result.figures[0])
    matches(*job.layout.nodes, job.layout.pairs(), result.figures[1], chosen=first)
    pareto = os.path.join(job.model_folder, PARETO_FIGURE)
    if choice:
        positions_plane(choice.front.to_json(), choice.position, pareto, choice.preference)
    elif os.path.isfile(pareto):
        os.remove(pareto)  # of an earlier choice: it marks a position that is not deployed any more
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
