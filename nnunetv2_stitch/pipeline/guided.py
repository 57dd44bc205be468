"""The rule `guided`: mixing weights for all folds, or a position where those are no better."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import numpy as np
import torch

from nnunetv2_stitch.guiding import Guided, guide_fold
from nnunetv2_stitch.pipeline.job import Job
from nnunetv2_stitch.selection.dice import NothingToScore
from nnunetv2_stitch.selection.rules import choose_each
from nnunetv2_stitch.selection.sweep import Sweep

GUIDED_FIGURE = "guided_mixing.png"
FALLBACK = "2"


def guide(job: Job, sweeps: Sequence[Sweep], device: torch.device,
          say: Callable[[str], None] = lambda line: None) -> tuple[dict[int | str, Guided], list[str]]:
    """Mixing weights of all folds, and what to say of them. None at all where rule 2 is better on the mean of the
    folds' validation cases, so that all folds answer in one way.

    Raises:
        NothingToScore: a fold whose validation cases hold no foreground, so that its search could not be stopped.
    """
    request = job.request
    nothing = [str(s.fold) for s in sweeps if not s.scorable]
    if nothing:
        raise NothingToScore(f"the validation cases of fold {', '.join(nothing)}")
    found = guide_folds(job, job.model_folder, request.output, device, say)
    score = float(np.mean([g.score for g in found.values()]))
    if len(job.partners) > 1:  # no sweep says what one position with each of them gives
        return found, [_in_words(found)]
    positions = choose_each(sweeps, FALLBACK)
    by_rule = float(np.mean([dict(zip(s.positions, s.values(request.output)))[positions[s.fold][0]] for s in sweeps]))
    if score <= by_rule:
        return {}, [f"The search for mixing weights found nothing better ({score:.4f}) than rule {FALLBACK} "
                    f"({by_rule:.4f}) on A's validation cases; deployed is rule {FALLBACK}."]
    return found, [_in_words(found), f"Rule {FALLBACK} has {by_rule:.4f} on the same cases, which the search was "
                                          f"stopped on."]


def guide_folds(job: Job, folder: str, output: str, device: torch.device,
                say: Callable[[str], None] = lambda line: None) -> dict[int | str, Guided]:
    """See `guide_fold`.

    Args:
        folder: of the trained stitches, the job's own or others of the same parents.
        output: whose head answers.
        say: receives a line per step of the search.
    """
    trainer, plans_name, configuration = os.path.basename(folder).split("__")
    return {f: guide_fold(folder, job.host.dataset_name, configuration, f, trainer, plans_name, device, output,
                          job.request.combine, job.request.search_steps, job.seed, say) for f in job.folds}


def _in_words(found: dict[int | str, Guided]) -> str:
    weights = np.array([g.weights for g in found.values()])
    return (f"Mixing weights of {weights[0].size} switches, from {weights.min():.2f} to {weights.max():.2f}, are "
            f"searched on A's images alone: look at the partner's cases before you trust them there.")
