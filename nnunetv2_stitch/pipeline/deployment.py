"""The choice of a position among what is trained, its deployment in all folds, and what is recorded of it."""

from __future__ import annotations

import contextlib
import math
import os
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from nnunetv2.paths import nnUNet_results
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.exchange.manifest import CARD
from nnunetv2_stitch.figures import dice_over_position, matches_by_partner
from nnunetv2_stitch.figures.gate_shares import gate_shares
from nnunetv2_stitch.figures.mixing_weights import mixing_weights
from nnunetv2_stitch.figures.positions_plane import positions_plane
from nnunetv2_stitch.fileio import read_json, write_json, write_text
from nnunetv2_stitch.locks import plans_locked
from nnunetv2_stitch.parties.checkpoint import load_checkpoint
from nnunetv2_stitch.pipeline.gating import GATE_FIGURE, find_gate
from nnunetv2_stitch.pipeline.guided import FALLBACK, GUIDED_FIGURE, guide
from nnunetv2_stitch.pipeline.prepare import Job
from nnunetv2_stitch.pipeline.stitched_card import stitched_card
from nnunetv2_stitch.selection.case_scores import CaseScores, choose_by_retention
from nnunetv2_stitch.selection.deploy import GATE, deploy_fold, write_setting
from nnunetv2_stitch.selection.fold import SWEEP_FILE
from nnunetv2_stitch.selection.partners_numbers import Choice, choose_with_partners
from nnunetv2_stitch.selection.rules import GUIDED, RETAIN, choose_each, label_free_agreement
from nnunetv2_stitch.selection.scored_cases import digest_of
from nnunetv2_stitch.selection.scoring import SettingScorer
from nnunetv2_stitch.selection.sweep import Sweep
from nnunetv2_stitch.stitching.network import SETTING_KEY, StitchedEnsemble, decode_setting
from nnunetv2_stitch.stitching.setting import Setting
from nnunetv2_stitch.stitching.supernet import load_supernet

SELECTION_FILE = "stitch_selection.json"
PARTY_NAMES = string.ascii_uppercase


@dataclass(frozen=True)
class StitchResult:
    """A finished stitched model. `positions` are the chosen ones by fold, one per partner; `position_names` are of the
    first fold, which differs from others by rule 1 and loo. `table` has one row per fold: Dice on the host's
    validation cases of A, B, plain ensemble and the stitched ensemble at each rule's choice. `choices` are there where
    partners' numbers took part, one per partner. `weighted`: mixing weights of all positions, none is chosen."""

    model_folder: str
    dataset: str
    configuration: str
    trainer: str
    plans_name: str
    folds: list[int | str]
    positions: dict[int | str, tuple[int, ...]]
    position_names: list[str]
    table: list[dict]
    remarks: list[str]
    figures: list[str]
    choices: tuple[Choice, ...] = ()
    weighted: bool = False

    @property
    def position(self) -> int:
        """The first fold's, of several partners the lowest."""
        return self.positions[self.folds[0]][0]

    @property
    def position_name(self) -> str:
        return self.position_names[0]


def deployed_setting(job: Job, fold) -> Setting:
    return decode_setting(_deployed_weights(job, fold)[SETTING_KEY])


def deployed_gate(job: Job, fold) -> str | None:
    """A digest of the fold's gate; None where it has none."""
    arguments = read_json(job.plans_file)["configurations"][job.host.configuration]["architecture"]["arch_kwargs"]
    if arguments.get("gate") is None:
        return None
    weights = _deployed_weights(job, fold)
    return digest_of(arguments["gate"], [(k, v.tolist()) for k, v in sorted(weights.items()) if k.startswith(GATE)])


def _deployed_weights(job: Job, fold) -> dict:
    path = os.path.join(job.model_folder, f"fold_{fold}", "checkpoint_final.pth")
    weights = load_checkpoint(path)["network_weights"]
    if SETTING_KEY not in weights:
        raise StitchError(f"{path} holds no stitched ensemble; delete its folder and train fold {fold} again")
    return weights


def select_and_deploy(job: Job, device: torch.device, deploy: bool = True, files: Sequence[str] = (),
                      prefer: str = "balanced", say: Callable[[str], None] = lambda line: None) -> StitchResult:
    """Choose from the folds' sweeps by the request's rule, or with partners' sweeps (`files`) on the Pareto front;
    by the rule `guided`, search mixing weights instead, of which `say` receives a line per step. Write setting,
    checkpoints, `stitch_selection.json` and figures. Unless `deploy`: take what is deployed and write nothing."""
    sweeps = [Sweep.from_json(read_json(os.path.join(job.model_folder, f"fold_{f}", SWEEP_FILE))) for f in job.folds]
    choices = choose_with_partners(job.model_folder, sweeps, files, prefer, job.request.output) if files else ()
    by_search = deploy and job.request.rule == GUIDED and not choices
    guided, said = guide(job, sweeps, device, say) if by_search else ({}, [])
    if not deploy:
        settings = {f: deployed_setting(job, f) for f in job.folds}
    elif guided:
        settings = {f: g.setting for f, g in guided.items()}
    else:
        settings, why = _by_rule(job, sweeps, choices)
        said = [*said, *why]
    weighted = any(s.is_weighted for s in settings.values())
    positions = {f: tuple(s.switches) for f, s in settings.items()}
    first = positions[job.folds[0]]
    marked = () if weighted else first
    figures = [os.path.join(job.model_folder, "dice_over_position.png"),
               *([os.path.join(job.model_folder, GUIDED_FIGURE)] if weighted else []),
               *(_pareto_figure(job, i) for i in range(len(choices)))]
    measured = {f: g.score for f, g in guided.items()}
    if not guided and (weighted or len(job.partners) > 1):
        measured = _measured(job, sweeps, settings, device, deploy)
    table = _table(job, sweeps, {} if weighted else positions, settings[job.folds[0]].output, measured)
    gate = find_gate(job, settings, device, say) if deploy and job.request.gate else None
    for row in table if gate else ():
        row["gated"] = gate.dice[row["fold"]]
    figures += [os.path.join(job.model_folder, GATE_FIGURE)] if gate else []
    remarks = [*said, *_unscored(sweeps), *_remarks(table), *(gate.remarks if gate else ()),
               *(line for c in choices for line in c.remarks)]
    if len(choices) > 1:
        remarks.append("Partners' numbers are of one position at a time; all together were tried on A's validation "
                       "cases only.")

    def result() -> StitchResult:
        return StitchResult(
            model_folder=job.model_folder, dataset=job.host.dataset_name, configuration=job.host.configuration,
            trainer=job.trainer, plans_name=job.request.plans_name, folds=job.folds, positions=positions,
            position_names=[job.layout.position_name(p) for p in first], table=table, remarks=remarks, figures=figures,
            choices=choices, weighted=weighted)

    if not deploy:
        return result()
    plans_files = [job.plans_file, os.path.join(job.model_folder, "plans.json")]
    with plans_locked(job.plans_file):
        write_setting(plans_files, job.host.configuration, settings[job.folds[0]], gate.to_json() if gate else None)
    for fold in job.folds:
        network = _supernet(job, fold)
        if gate and gate.options:
            network.load_state_dict({**network.state_dict(), **gate.statistics[fold]})
        deploy_fold(network, os.path.join(job.model_folder, f"fold_{fold}"), settings[fold])
    write_json(os.path.join(job.model_folder, SELECTION_FILE), {
        "rule": "pareto" if choices else job.request.rule,
        **({"pareto": [c.to_json() for c in choices]} if choices else {}),
        "positions": {str(f): list(p) for f, p in positions.items()},
        "names": {str(f): [job.layout.position_name(k) for k in p] for f, p in positions.items()},
        "settings": {str(f): s.to_json() for f, s in settings.items()},
        **({"gate": gate.record} if gate else {}),
        "validation_dice": table, "remarks": remarks, "seed": job.seed,
        "label_free_spearman": {str(s.fold): label_free_agreement(s) for s in sweeps},
    })
    text = stitched_card(read_json(job.plans_file), job.host.configuration, job.host.dataset_json, table, remarks)
    write_text(os.path.join(job.model_folder, CARD), text)
    scored = [s.to_json() for s in sweeps if s.scorable]
    if scored:
        dice_over_position(scored, marked, figures[0])
    else:
        _remove(figures.pop(0))
    figures += matches_by_partner(job.layout, job.model_folder, marked)
    if guided:
        mixing_weights([g.positions for g in guided.values()], [g.weights for g in guided.values()],
                       os.path.join(job.model_folder, GUIDED_FIGURE))
    else:
        _remove(os.path.join(job.model_folder, GUIDED_FIGURE))
    if gate:
        gate_shares(gate.record, os.path.join(job.model_folder, GATE_FIGURE))
    else:
        _remove(os.path.join(job.model_folder, GATE_FIGURE))
    for number, choice in enumerate(choices):
        positions_plane(choice.front.to_json(), choice.position, _pareto_figure(job, number), choice.preference)
    if not choices:  # of an earlier choice: they mark a position that is not deployed any more
        for number in range(len(job.partners)):
            _remove(_pareto_figure(job, number))
    return result()


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)


def _by_rule(job: Job, sweeps: Sequence[Sweep],
             choices: Sequence[Choice]) -> tuple[dict[int | str, Setting], list[str]]:
    """Both parents' maps averaged at the position of each fold with each partner, and what to say of them."""
    request, said = job.request, []
    rule, fixed = ("3", [c.position for c in choices]) if choices else (request.rule, job.fixed_positions)
    if rule == RETAIN:
        folders = [os.path.join(job.model_folder, f"fold_{f}") for f in job.folds]
        found = choose_by_retention([CaseScores.read(f) for f in folders], request.tolerance)
        said = [f"Position {p} is chosen by retention: {r.reason}." for p, r in found.items()]
        positions = dict.fromkeys(job.folds, tuple(found))
    else:
        positions = choose_each(sweeps, FALLBACK if rule == GUIDED else rule, fixed)
    return {f: Setting.average_at(*p, output=request.output, combine=request.combine)
            for f, p in positions.items()}, said


def _pareto_figure(job: Job, number: int) -> str:
    return os.path.join(job.model_folder, "pareto.png" if number == 0 else f"pareto_partner{number + 1}.png")


def _supernet(job: Job, fold) -> StitchedEnsemble:
    return load_supernet(read_json(job.plans_file), job.host.configuration, job.host.dataset_json, fold,
                         job.model_folder, str(nnUNet_results))


def _measured(job: Job, sweeps: Sequence[Sweep], settings: dict, device: torch.device, deploy: bool,
              ) -> dict[int | str, float]:
    """Dice of each fold's setting where no sweep tells it, because more than one position is active; NaN where no
    validation case holds foreground."""
    selection = os.path.join(job.model_folder, SELECTION_FILE)
    if not deploy and os.path.isfile(selection):
        return {row["fold"]: math.nan if row["chosen"] is None else row["chosen"]
                for row in read_json(selection)["validation_dice"]}
    found = {s.fold: math.nan for s in sweeps if not s.scorable}
    for fold, setting in ((f, s) for f, s in settings.items() if f not in found):
        manager = PlansManager(read_json(job.plans_file))
        scorer = SettingScorer(_supernet(job, fold), manager, manager.get_configuration(job.host.configuration),
                               job.host.dataset_json, device)
        found[fold] = scorer.score(setting, scorer.validation_cases(job.preprocessed_folder, fold))
    return found


def _table(job: Job, sweeps: list[Sweep], chosen: dict, output: str, measured: dict) -> list[dict]:
    scored = sum(s.scorable for s in sweeps)
    rules = (["1", "2"] if scored else []) + (["loo"] if scored > 1 else [])
    choices = {f"rule {r}": choose_each(sweeps, r) for r in rules} if len(job.partners) == 1 else {}
    if job.request.rule == "3" and not measured:
        choices["rule 3"] = chosen
    rows = []
    for sweep in sweeps:
        values = dict(zip(sweep.positions, sweep.values(output)))
        row = {"fold": sweep.fold, **{PARTY_NAMES[i]: sweep.baselines[p] for i, p in enumerate(job.layout.nodes)},
               "plain ensemble": sweep.baselines["ensemble"]}
        for name, choice in choices.items():
            row[name] = values[choice[sweep.fold][0]]
        for position in chosen.get(sweep.fold, ()) if measured else ():
            party = list(job.layout.nodes).index(job.layout.matches[position].party)
            row[f"with {PARTY_NAMES[party]} only"] = values[position]
        row["chosen"] = measured.get(sweep.fold) if measured else _at(sweep, values, chosen)
        rows.append(row)
    return rows


def _at(sweep: Sweep, values: dict[int, float], chosen: dict) -> float:
    """Dice at the chosen position; of no position that of the plain ensemble."""
    return values[chosen[sweep.fold][0]] if chosen.get(sweep.fold) else sweep.baselines["ensemble"]


def _unscored(sweeps: Sequence[Sweep]) -> list[str]:
    folds = [str(s.fold) for s in sweeps if not s.scorable]
    return [f"The validation cases of fold {', '.join(folds)} hold no foreground label, so they took no part in the "
            f"choice."] if folds else []


def _remarks(table: list[dict]) -> list[str]:
    """Plain words where the chosen setting is no better on validation than doing less."""
    table = [row for row in table if all(map(math.isfinite, (row["A"], row["plain ensemble"], row["chosen"])))]
    if not table:
        return []
    mean = {k: float(np.mean([row[k] for row in table])) for k in ("A", "plain ensemble", "chosen")}
    return [f"On A's validation cases the stitched ensemble ({mean['chosen']:.3f}) is worse than {what} "
            f"({mean[key]:.3f})." for key, what in (("A", "A alone"), ("plain ensemble", "the plain ensemble"))
            if round(mean["chosen"], 3) < round(mean[key], 3)]
