"""Own Dice along the line of every fold, and the one alpha that retention takes for all."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import read_json, write_json
from nnunetv2_stitch.parties.checkpoint import sha256
from nnunetv2_stitch.parties.datasets import stored_contents
from nnunetv2_stitch.parties.model_folder import FINAL
from nnunetv2_stitch.selection.retention import Retention, is_as_good, retained
from nnunetv2_stitch.selection.scored_cases import ScoredCases, digest_of
from nnunetv2_stitch.training.adapt_job import AdaptJob
from nnunetv2_stitch.training.adapt_session import START
from nnunetv2_stitch.training.line import ALPHAS, HALFWAY, case_dice, own_point, read_ends
from nnunetv2_stitch.training.site import Site

CASES_FILE = "adapt_cases.json"  # local: Dice of single cases, which are not named


@dataclass(frozen=True)
class FoldScores:
    """Dice of one fold's validation cases: `dice` `(alphas, cases)`, `host` `(cases,)` of the host's own model, None
    where it has none of this fold. `why`: what was in the way of the latter."""

    fold: int | str
    dice: np.ndarray
    host: np.ndarray | None
    made_of: dict = field(default_factory=dict)
    why: str = ""


def score_fold(job: AdaptJob, fold: int | str, device: torch.device, progress: bool,
               say: Callable[[str], None]) -> FoldScores:
    """Own Dice at every alpha; read where it was measured before with the same models on the same cases.

    Args:
        job: whose `fold` is trained.
        progress: show progress bars.
        say: receives one line per step.
    """
    folder = job.fold_folder(fold)
    site = Site(job.preprocessed_folder, job.dataset, job.configuration, fold, job.plans, job.dataset_json)
    cases = site.validation_names()
    stored = stored_contents(os.path.join(site.folder, site.data_identifier), cases)
    own, why = _own_site(job, fold, cases)
    made_of = {"alphas": list(ALPHAS), "cases": digest_of(cases, stored),
               **{name: sha256(os.path.join(folder, name)) for name in (START, FINAL)},
               "host": None if own is None else sha256(job.host.checkpoint_path(fold))}
    path = os.path.join(folder, CASES_FILE)
    there = read_json(path) if os.path.isfile(path) else {}
    if there.get("made_of") == made_of:
        host = there["host"]
        return FoldScores(fold, np.array(there["dice"], dtype=float),
                          None if host is None else np.array(host, dtype=float), made_of, why)
    say(f"fold {fold}: {len(ALPHAS)} points of the line on {len(cases)} validation cases")
    start, end = read_ends(job.model_folder, fold)
    kept = [ScoredCases(os.path.join(folder, stem), made_of) for stem in ("adapt_line", "adapt_host")]
    dice = case_dice(site, [(start, end, a) for a in ALPHAS], job.record.seed, kept[0], device, f"fold {fold}",
                     progress, say)
    host = None
    if own is not None:
        host = case_dice(own, [own_point(job.host, fold)], job.record.seed, kept[1], device,
                         f"fold {fold}, the host alone", progress, say)[0]
    write_json(path, {"made_of": made_of, "dice": dice.tolist(), "host": None if host is None else host.tolist()})
    for scores in kept:
        scores.remove()
    return FoldScores(fold, dice, host, made_of, why)


def _own_site(job: AdaptJob, fold: int | str, cases: Sequence[str]) -> tuple[Site | None, str]:
    """Where the host's own model is tried on the same cases, on its own grid."""
    if job.host is None:
        return None, ""
    if fold not in job.host.folds:
        return None, f"{job.host.identifier} has no fold {fold}"
    site = Site(job.preprocessed_folder, job.dataset, job.host.configuration, fold, job.host.plans, job.dataset_json)
    try:
        same = site.validation_names() == list(cases)
    except StitchError as error:
        return None, str(error)
    return (site, "") if same else (None, f"{job.host.identifier} was preprocessed with other cases")


def choose(scores: Sequence[FoldScores], tolerance: float,
           alpha: float | None = None) -> tuple[Retention, np.ndarray, np.ndarray | None]:
    """The alpha by retention over the cases of all folds, and these cases' Dice: `(alphas, cases)`, and of the host
    alone `(cases,)`. Path: alpha from 0, the partner, to the last beyond 1. The host alone is not on this line, so
    where no point reaches it the best is taken. A given `alpha`, one of the path, is taken as it is, and `reached` says
    whether it is as good as the host alone.

    Raises:
        StitchError: no case has a label.
    """
    dice = np.concatenate([s.dice for s in scores], 1)
    host = None
    if any(s.host is not None and np.isfinite(s.host).any() for s in scores):
        host = np.concatenate([np.full(s.dice.shape[1], np.nan) if s.host is None else s.host for s in scores])
    found = retained(dice, host, tolerance, host_at_end=False)
    if alpha is not None:
        index = ALPHAS.index(alpha)
        reached = host is None or is_as_good(dice[index], host, tolerance)
        found = replace(found, index=index, reached=reached,
                        reason=f"{'half-way' if alpha == HALFWAY else 'as -alpha says'}; not chosen on A's cases")
    return found, dice, host
