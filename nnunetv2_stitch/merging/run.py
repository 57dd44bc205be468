"""Guided model merging, end to end: several model folders and a centre's data -> one ordinary model folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from nnunetv2_stitch.command_lines import Command, evaluating, predicting
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.exchange.parents import answers_by_itself, read_party
from nnunetv2_stitch.folders import require_plans_name
from nnunetv2_stitch.merging.baselines import fisher_merge, greedy_soup, mixture, uniform
from nnunetv2_stitch.merging.check import MergeCheck, check_merge
from nnunetv2_stitch.merging.guided import FEDAVG, GUIDED, require_searchable, search_from_fedavg
from nnunetv2_stitch.merging.members import fedavg_weights, make_atlas, mirroring_of_all, read_members
from nnunetv2_stitch.merging.objective import CentreObjective, require_labels
from nnunetv2_stitch.merging.output import check_target, write_merged
from nnunetv2_stitch.merging.page import write_merged_page
from nnunetv2_stitch.parties.model_folder import FINAL, ModelFolder
from nnunetv2_stitch.randomness import seed_everything
from nnunetv2_stitch.search.coefficients import SearchOptions
from nnunetv2_stitch.training.centre import opened
from nnunetv2_stitch.training.member import Member
from nnunetv2_stitch.training.site import find_site, require_configuration

UNIFORM, GREEDY, FISHER = "uniform soup", "greedy soup", "Fisher merging"


@dataclass(frozen=True)
class MergeRequest:
    """What was asked for, a field per flag of nnUNetv2_merge_party. `models`: folders or zips, or what was read of
    them. `name`: what the merged model's plans are called. `plans_name`: plans of the centre's data, None for the
    models'. `checkpoint_name`: of all models, or a name for each."""

    models: Sequence[str | ModelFolder]
    dataset: int | str
    configuration: str
    fold: int | str
    name: str
    base: str | None = None
    granularity: str = "stage"
    search: str = "gradient"
    steps: int = 100
    rate: float = 0.05
    surrogate: str = "auto"
    plans_name: str | None = None
    checkpoint_name: str | Sequence[str] = FINAL
    seed: int = 12345


@dataclass(frozen=True)
class MergeResult:
    """The written model. `table`: a row per way of merging, `model` and its `score` on the centre's validation cases
    (`scored_by`). `chosen`: the row that was written. `remarks`: what the user must know, a line each. `commands`: what
    to do next, each with what it does."""

    model_folder: str
    fold: int | str
    dataset: str
    configuration: str
    plans_name: str
    chosen: str
    scored_by: str
    table: list[dict]
    check: MergeCheck
    remarks: list[str]
    files: list[str] = field(default_factory=list)
    commands: tuple[Command, ...] = ()

    @property
    def folds(self) -> list[int | str]:
        return [self.fold]

    @property
    def trainer(self) -> str:
        return os.path.basename(self.model_folder).split("__")[0]


def merge_guided(request: MergeRequest, device: str | torch.device = "cuda",
                 say: Callable[[str], None] = lambda line: None, page: bool = True) -> MergeResult:
    """Search merging coefficients on the centre's data and write the best model as an ordinary nnU-Net model folder.

    Method: Zhu et al., arXiv 2503.20138 (model atlas, coefficients of any sign). Groups, optimiser, stopping and
    fallback are our own choices.

    Args:
        say: receives one line per step.
        page: write `report.html` at the end, with pictures of three cases.

    Raises:
        StitchError: bad input, before anything is written.
    """
    _check(request)
    models = [m if isinstance(m, ModelFolder) else read_party(m, name)
              for m, name in zip(request.models, _checkpoint_names(request))]
    members = read_members(models, request.fold)
    require_configuration(request.configuration, [m.model for m in members])
    site = find_site(request.dataset, request.configuration, request.fold, members, request.name, request.plans_name)
    require_labels(request.surrogate, site)
    folder = check_target(site)
    atlas = make_atlas(members, request.base, request.granularity)
    fedavg = fedavg_weights(members)
    seed_everything(request.seed)
    with opened(site, torch.device(device)) as centre:
        objective = CentreObjective(centre, atlas, request.surrogate)
        check = check_merge(atlas, objective.loss_of_weights)
        say(check.sentence)
        scores, kept = score_known_ways(objective, members, fedavg)
        say(f"validation {objective.scored_by}: " + ", ".join(f"{k} {v:.4f}" for k, v in scores.items()))
        alone = {m.label: partial(objective.score_member, m) for m in members}
        options = SearchOptions(request.steps, request.rate, seed=request.seed)
        found, chosen, best = search_from_fedavg(objective, fedavg, scores, alone, request.search, options, say)
        state = objective.state()
    remarks = [check.sentence, *_remarks(scores, chosen, best, objective.scored_by)]
    rows = _table(scores, [m.label for m in members], chosen, best)
    record = {
        "chosen": chosen, "scored_by": objective.scored_by, "table": rows, "remarks": remarks,
        "members": [m.to_json() for m in members], "base": _base_record(request.base),
        "granularity": request.granularity, "groups": atlas.groups, "start": dict(zip(atlas.labels, fedavg)),
        "coefficients": {label: row.tolist() for label, row in zip(atlas.labels, found.coefficients)},
        "greedy_soup": dict(zip(atlas.labels, kept)),
        "search": {"method": request.search, "loss": objective.measure.name, "steps": request.steps,
                   "rate": request.rate, "best_step": found.step, "history": found.history, "seed": request.seed},
        "batch_norm_measured_anew": objective.has_batch_norm and chosen in (GUIDED, FEDAVG),
        "check": check.to_json(), "dataset": site.dataset_name, "configuration": site.configuration,
        "fold": str(site.fold), "plans_name": request.name,
    }
    files = write_merged(folder, site, state, record, mirroring_of_all(members))
    result = MergeResult(folder, site.fold, site.dataset_name, site.configuration, request.name, chosen,
                         objective.scored_by, rows, check, remarks, files)
    result = replace(result, commands=_next_steps(members, result, torch.device(device)))
    if page:
        write_merged_page(members, result, torch.device(device), say)
    return result


def _next_steps(members: Sequence[Member], result: MergeResult, device: torch.device) -> tuple[Command, ...]:
    """Beside the merged fold an evaluation takes the members that took part with their fold of that name and their
    final checkpoint: it has one fold and one checkpoint for all."""
    alike = {m.label: m.model.path for m in members if answers_by_itself(m.model, {result.fold: m.fold})}
    return (predicting(result, device), evaluating({**alike, "merged": result.model_folder}, result.folds, device))


def score_known_ways(objective: CentreObjective, members: Sequence[Member],
                     fedavg: Sequence[float]) -> tuple[dict[str, float], list[float]]:
    """The scores of all members and of all ways to merge without a search, and the greedy soup's weights."""
    atlas = objective.atlas

    def of_mixture(weights: Sequence[float]) -> float:
        return objective.score_weights(mixture(atlas, weights))

    scores = {m.label: objective.score_member(m) for m in members}
    alone = list(scores.values())
    scores[FEDAVG] = of_mixture(fedavg)
    scores[UNIFORM] = scores[FEDAVG] if max(fedavg) - min(fedavg) < 1e-12 else of_mixture(uniform(atlas))
    kept, scores[GREEDY] = greedy_soup(alone, of_mixture)
    scores[FISHER] = objective.score_weights(fisher_merge(objective))
    return scores, kept


def _remarks(scores: dict[str, float], chosen: str, best: str, measured: str) -> list[str]:
    said = []
    if chosen != GUIDED:
        what = "FedAvg weighting" if chosen == FEDAVG else f"the best member, {best}, unchanged"
        said.append(f"The search found nothing better than FedAvg weighting and the best member on the centre's "
                    f"validation cases; written is {what} ({measured} {scores[chosen]:.4f}).")
    ahead = [k for k in (UNIFORM, GREEDY, FISHER) if scores[k] > scores[chosen]]
    if ahead:
        listed = ", ".join(f"{k} ({scores[k]:.4f})" for k in ahead)
        said.append(f"Better than what was written ({scores[chosen]:.4f}) on these cases: {listed}.")
    return said


def _table(scores: dict[str, float], members: Sequence[str], chosen: str, best: str) -> list[dict]:
    kinds = {**dict.fromkeys(members, "member"), best: "best member"}
    return [{"model": k, "kind": kinds.get(k, "merged"), "score": v, "written": "<-" if k == chosen else ""}
            for k, v in scores.items()]


def _base_record(base: str | None) -> dict:
    from nnunetv2_stitch.parties.checkpoint import sha256
    return {"kind": "mean of the members"} if base is None else {"kind": "checkpoint", "sha256": sha256(base)}


def _checkpoint_names(request: MergeRequest) -> list[str]:
    """One for each model."""
    names = [request.checkpoint_name] if isinstance(request.checkpoint_name, str) else list(request.checkpoint_name)
    if len(names) not in (1, len(request.models)):
        raise StitchError(f"-chk has {len(names)} values for {len(request.models)} models; give one for all or one for "
                          f"each")
    return names if len(names) == len(request.models) else names * len(request.models)


def _check(request: MergeRequest) -> None:
    require_plans_name(request.name, "-o_p")
    require_searchable(request)
    if request.fold != "all" and not str(request.fold).isdecimal():
        raise StitchError(f"fold {request.fold!r} is not 0, 1, 2, ... or all")
