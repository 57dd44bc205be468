"""report.html of a stitched model: the last step of a training or choice."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator

import numpy as np
import torch

from nnunetv2_stitch.evaluation.page import Figure
from nnunetv2_stitch.evaluation.party_cards import alone, card_of, letter
from nnunetv2_stitch.evaluation.result_page import (
    CHOSEN_ON_THE_SAME,
    LIMITS,
    ResultPage,
    Table,
    compatibility,
    write_page,
)
from nnunetv2_stitch.evaluation.result_parts import Parts, as_text, beside_host, measured_and_shown
from nnunetv2_stitch.evaluation.validated import Answer
from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.pipeline.gating import GATE_FIGURE
from nnunetv2_stitch.pipeline.guided import GUIDED_FIGURE
from nnunetv2_stitch.pipeline.job import Job
from nnunetv2_stitch.pipeline.next_steps import own_folds
from nnunetv2_stitch.pipeline.reporting import SWEEP_FIGURE, StitchResult
from nnunetv2_stitch.pipeline.stitched_card import describe, describe_gate
from nnunetv2_stitch.stitching.plans import shown_names
from nnunetv2_stitch.stitching.setting import party_names

FIGURES = (
    (SWEEP_FIGURE, "Dice over the position", "Line plot of mean Dice on A's validation cases over the positions along "
     "the network, with the untouched parents and their plain ensemble as horizontal lines and the choice marked."),
    (GUIDED_FIGURE, "Mixing weights over the position", "Plot of the searched mixing weights of both sides over the "
     "positions along the network."),
    (GATE_FIGURE, "The gate: A's share, and Dice, from careful to careless", "Two panels over the gates that were "
     "tried: A's share of the answer to each of its validation cases, and Dice; the chosen gate marked."),
    ("pareto", "Positions as the parties see them", "Scatter plot of all positions by Dice on A's cases and on a "
     "partner's, with the Pareto front and the choice."),
    ("matches", "Which layers are joined", "Drawing of the host's and a partner's network, with a line for every pair "
     "of layers that may be joined and the chosen ones marked."),
)


def write_stitched_page(job: Job, result: StitchResult, device: torch.device,
                        say: Callable[[str], None] = lambda line: None) -> str | None:
    """Write the page of what is deployed and validated; see `write_page`."""
    return write_page(job.model_folder, lambda: _page(job, result, device), say)


def _page(job: Job, result: StitchResult, device: torch.device) -> ResultPage:
    arguments = read_json(job.plans_file)["configurations"][job.host.configuration]["architecture"]["arch_kwargs"]
    parties, folds = (job.host, *job.partners), own_folds(job)
    letters = [letter(i) for i in range(len(parties))]
    host_alone, *partners_alone = (alone(i, p.is_adapted) for i, p in enumerate(parties))
    answers = [Answer(host_alone, job.host.path, folds[0], checkpoint_name=job.host.checkpoint_name,
                      is_host_alone=True),
               *(Answer(name, job.model_folder, folds[0], mode)
                 for name, mode in zip(partners_alone, party_names(len(parties))[1:])),
               Answer("stitched", job.model_folder, folds[0], has_maps=True)]
    parts = measured_and_shown(job.host.dataset_name, answers, device)
    host, *partners = shown_names(job.stitching.parents)
    names = " and ".join(partners)
    said = [f"Deployed: {describe(arguments['setting'])}.",
            *([f"Gate: {describe_gate(arguments['gate'])}."] if arguments.get("gate") else []), *result.remarks]
    return ResultPage(
        title=f"{host}, stitched with {names}", command="nnUNetv2_train_stitch",
        what=f"Trained nnU-Nets of {len(parties)} hospitals, joined to one by stitches between their layers, with the "
             f"images of {job.host.dataset_name} (A) alone. An ordinary nnU-Net model of A.",
        dataset=job.host.dataset_name,
        said=[*parts.said, *_beside_host(parts, result, bool(arguments.get("gate"))), *said],
        cards=[card_of(f"{name}, {'the host' if i == 0 else 'a partner'}{', adapted' * model.is_adapted}", model, own,
                       i == 0)
               for i, (name, model, own) in enumerate(zip(letters, parties, folds))],
        compatibility=[t for name, report in zip(letters[1:], job.reports) for t in compatibility("A", name, report)],
        tables=[*parts.tables, *_while_choosing(job, result, folded=not parts.without_host)],
        figures=list(choice_figures(job.model_folder)), cases=parts.cases, cases_note=parts.cases_note,
        limits=[CHOSEN_ON_THE_SAME.format(what="The setting"), *LIMITS], missing=parts.missing,
        commands=result.commands)


def _beside_host(parts: Parts, result: StitchResult, gated: bool) -> list[str]:
    """By the sweeps, which know the host's end. Of a gate Dice is known only while it is chosen."""
    rows = [(row.get("gated" if gated else "chosen", math.nan), row["A"]) for row in result.table]
    ours, host = np.mean([row for row in rows if all(map(math.isfinite, row))] or [(math.nan, math.nan)], axis=0)
    return beside_host(parts, "stitched", ours, host)


def _while_choosing(job: Job, result: StitchResult, folded: bool) -> Iterator[Table]:
    called = {letter(i): f"{letter(i)} adapted" for i, p in enumerate((job.host, *job.partners)) if p.is_adapted}
    if rows := [{called.get(name, name): value for name, value in row.items()} for row in result.table]:
        yield Table("While choosing, by fold", as_text(rows), "Mean Dice on the preprocessed grid, without "
                    "mirroring, which is why these numbers differ a little from those above. `chosen` is what is "
                    "deployed.", folded=folded)


def choice_figures(folder: str) -> Iterator[Figure]:
    """The figures that are in the model folder now."""
    there = sorted(n for n in os.listdir(folder) if n.endswith(".png"))
    for stem, title, alt in FIGURES:
        for name in there:
            if name == stem or name.startswith((f"{stem}.", f"{stem}_")):
                partner = name.removesuffix(".png").removeprefix(f"{stem}_").replace("partner", ", partner ")
                whose = partner if partner.startswith(",") else ""
                yield Figure(os.path.join(folder, name), f"{title}{whose}", alt, "choice")
