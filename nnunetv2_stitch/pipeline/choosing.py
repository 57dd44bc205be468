"""Choose: from the folds' sweeps, the setting of each fold."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from nnunetv2_stitch.guiding import Guided
from nnunetv2_stitch.pipeline.guided import FALLBACK, guide
from nnunetv2_stitch.pipeline.job import Job
from nnunetv2_stitch.selection.case_scores import CaseScores, choose_by_retention
from nnunetv2_stitch.selection.partners_numbers import Choice, choose_with_partners
from nnunetv2_stitch.selection.rules import GUIDED, RETAIN, choose_each
from nnunetv2_stitch.selection.sweep import Sweep
from nnunetv2_stitch.stitching.setting import Setting


@dataclass(frozen=True)
class Chosen:
    """`settings` by fold, and what to say of them. `choices` are there where partners' numbers took part, one per
    partner; `guided`, by fold, where mixing weights were searched."""

    settings: Mapping[int | str, Setting]
    remarks: Sequence[str] = ()
    choices: Sequence[Choice] = ()
    guided: Mapping[int | str, Guided] = field(default_factory=dict)

    @property
    def is_weighted(self) -> bool:
        """Mixing weights of all positions: none is chosen."""
        return any(s.is_weighted for s in self.settings.values())

    @property
    def positions(self) -> dict[int | str, tuple[int, ...]]:
        return {f: tuple(s.switches) for f, s in self.settings.items()}


def choose(job: Job, sweeps: Sequence[Sweep], device: torch.device, files: Sequence[str] = (),
           prefer: str = "balanced", say: Callable[[str], None] = lambda line: None) -> Chosen:
    """The settings by the request's rule, or with partners' sweeps on the Pareto front. By the rule `guided` mixing
    weights are searched instead. Writes nothing.

    Args:
        sweeps: of the job's folds, see `sweeps_of`.
        files: partners' sweeps, of nnUNetv2_sweep_stitched.
        prefer: with these, which point of the front: `own`, `balanced` or `partner`.
        say: receives a line per step of the search.

    Raises:
        StitchError: partners' sweeps are of another model, or nothing can be chosen by.
    """
    choices = choose_with_partners(job.model_folder, sweeps, files, prefer, job.request.output) if files else ()
    by_search = job.request.rule == GUIDED and not choices
    guided, said = guide(job, sweeps, device, say) if by_search else ({}, [])
    if guided:
        return Chosen({f: g.setting for f, g in guided.items()}, said, choices, guided)
    settings, why = _by_rule(job, sweeps, choices)
    return Chosen(settings, [*said, *why], choices)


def _by_rule(job: Job, sweeps: Sequence[Sweep],
             choices: Sequence[Choice]) -> tuple[dict[int | str, Setting], list[str]]:
    """Both parents' maps averaged at the position of each fold with each partner, and what to say of them."""
    request, said = job.request, []
    rule, fixed = ("3", [c.position for c in choices]) if choices else (request.rule, job.fixed_positions)
    if rule == RETAIN:
        folders = [os.path.join(job.model_folder, f"fold_{f}") for f in job.folds]
        found = choose_by_retention([CaseScores.read(f) for f in folders], request.tolerance,
                                    near_best=not request.gate)
        said = [f"Position {p} is chosen by retention: {r.reason}." for p, r in found.items()]
        positions = dict.fromkeys(job.folds, tuple(found))
    else:
        positions = choose_each(sweeps, FALLBACK if rule == GUIDED else rule, fixed)
    return {f: Setting.average_at(*p, output=request.output, combine=request.combine)
            for f, p in positions.items()}, said
