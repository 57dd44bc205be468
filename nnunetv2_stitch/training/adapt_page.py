"""report.html of an adapted partner: the last step of an adaptation that is validated."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch

from nnunetv2_stitch.bridging.report import compare_parties
from nnunetv2_stitch.evaluation.page import Figure
from nnunetv2_stitch.evaluation.party_cards import alone, card_of
from nnunetv2_stitch.evaluation.result_page import (
    CHOSEN_ON_THE_SAME,
    LIMITS,
    ResultPage,
    Table,
    compatibility,
    write_page,
)
from nnunetv2_stitch.evaluation.result_parts import as_text, beside_host, measured_and_shown
from nnunetv2_stitch.evaluation.validated import Answer
from nnunetv2_stitch.training.adapt_job import AdaptJob
from nnunetv2_stitch.training.adapt_output import FIGURE
from nnunetv2_stitch.training.adapt_session import START

if TYPE_CHECKING:
    from nnunetv2_stitch.training.adapt import AdaptResult


def write_adapted_page(job: AdaptJob, result: AdaptResult, record: Mapping, device: torch.device,
                       say: Callable[[str], None] = lambda line: None) -> str | None:
    """Write the page of the chosen point of the line; see `write_page`.

    Args:
        job: that is done.
        result: what came out, validated.
        record: contents of adapt.json.
        device: where to predict what no validation has left.
        say: receives one line.
    """
    return write_page(job.result_folder, lambda: _page(job, result, record, device), say)


def _page(job: AdaptJob, result: AdaptResult, record: Mapping, device: torch.device) -> ResultPage:
    folds = {f: f for f in result.folds}
    host = job.host
    # The partner in the host's terms is what the training began with.
    answers = [*([Answer(alone(0, host.is_adapted), host.path,
                        {f: f for f in result.folds if f in host.folds}, is_host_alone=True)] if host else []),
               Answer(alone(1, job.partner.is_adapted), job.model_folder, folds, checkpoint_name=START),
               Answer("adapted", job.result_folder, folds)]
    parts = measured_and_shown(job.dataset, answers, device)
    theirs = {f: record_of["fold"] for f, record_of in job.record.folds.items() if f in set(map(str, result.folds))}
    cards = [*([card_of("A, the host", host, answers[0].folds, own=True)] if host else []),
             card_of("B, the partner", job.partner, theirs)]
    chosen = [] if job.request.alpha is not None else [CHOSEN_ON_THE_SAME.format(what="Alpha")]
    return ResultPage(
        title=f"{job.partner.dataset_name}, adapted to {job.dataset}", command="nnUNetv2_adapt_party",
        what=f"A partner's network (B), trained on with the images of {job.dataset} (A) and moved back towards what it "
             f"was. An ordinary nnU-Net model of A.",
        dataset=job.dataset,
        said=[*parts.said, *beside_host(parts, "adapted", result.mean[result.alpha], result.host_alone),
              *_verdict(result), f"Alpha {result.alpha:g}: {result.reason}.", *result.remarks],
        joined="What it was made of", cards=cards,
        compatibility=compatibility("A", "B", compare_parties(host, job.partner, job.request.partner.names))
        if host else (),
        tables=[*parts.tables, _line(record, folded=not parts.without_host)],
        figures=[Figure(os.path.join(job.result_folder, FIGURE), "Dice on A's cases from the partner to the partner "
                        "trained on", "Line plot of mean Dice on A's validation cases over alpha, from 0, the partner, "
                        "to 1, the partner trained on, and beyond; A alone as a line and the choice marked.")],
        cases=parts.cases, cases_note=parts.cases_note, limits=[*chosen, *LIMITS],
        missing=parts.missing, commands=result.commands)


def _verdict(result: AdaptResult) -> list[str]:
    """Whether it is good enough to be used by itself."""
    if result.reached is None:
        return []
    return ["On A's validation cases it is as good as A's own model: use it by itself." if result.reached else
            "On A's validation cases A's own model is better: use both, where a gate chooses for each image."]


def _line(record: Mapping, folded: bool) -> Table:
    rows = [{"alpha": f"{alpha:g}", "mean Dice": mean, "taken": "yes" if alpha == record["alpha"] else ""}
            for alpha, mean in zip(record["alphas"], record["mean"])]
    alone = record["host_alone"]["mean"]
    rows += [] if alone is None else [{"alpha": "A alone", "mean Dice": alone, "taken": ""}]
    return Table("Along the line", as_text(rows), "Mean Dice on A's validation cases of all folds, beside A alone of "
                 "those of its folds, on the preprocessed grid, without mirroring, which is why these numbers differ a "
                 "little from those above. Tiles are of B's patch size here, of A's in a stitched model: B alone "
                 "can differ from one page to the other.", folded=folded)
