"""report.html of a merged model."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from nnunetv2_stitch.bridging.report import compare_parties
from nnunetv2_stitch.evaluation.page import Figure
from nnunetv2_stitch.evaluation.party_cards import card_of
from nnunetv2_stitch.evaluation.result_page import (
    CHOSEN_ON_THE_SAME,
    LIMITS,
    ResultPage,
    Table,
    compatibility,
    write_page,
)
from nnunetv2_stitch.evaluation.result_parts import as_text, measured_and_shown
from nnunetv2_stitch.evaluation.validated import Answer
from nnunetv2_stitch.merging.output import FIGURE
from nnunetv2_stitch.training.member import Member

if TYPE_CHECKING:
    from nnunetv2_stitch.merging.run import MergeResult


def write_merged_page(members: Sequence[Member], result: MergeResult, device: torch.device,
                      say: Callable[[str], None] = lambda line: None) -> str | None:
    """Write the page of a merged fold; see `write_page`. It tells of the fold that was merged last."""
    return write_page(result.model_folder, lambda: _page(members, result, device), say)


def _page(members: Sequence[Member], result: MergeResult, device: torch.device) -> ResultPage:
    fold = result.fold
    # The centre's own model comes first: it alone was validated on the centre's cases.
    members = sorted(members, key=lambda m: m.model.dataset_name != result.dataset)
    answers = [*(Answer(m.label, m.model.path, {fold: m.fold}, checkpoint_name=os.path.basename(m.path),
                        of_host=m.model.dataset_name == result.dataset) for m in members),
               Answer("merged", result.model_folder, {fold: fold})]
    parts = measured_and_shown(result.dataset, answers, device)
    first, others = members[0], members[1:]
    folder = os.path.join(result.model_folder, f"fold_{fold}")
    return ResultPage(
        title=f"{result.dataset}, merged from {len(members)} models", command="nnUNetv2_merge_party",
        what=f"One network of the same size, whose weights are a sum of those of {len(members)} trained nnU-Nets; the "
             f"coefficients were searched on the images of {result.dataset}. An ordinary nnU-Net model of "
             f"{result.dataset}, fold {fold}.",
        dataset=result.dataset, said=[f"Written: {result.chosen}.", *result.remarks, *parts.said],
        joined="What was merged",
        cards=[card_of(m.label, m.model, {fold: m.fold}, m.model.dataset_name == result.dataset) for m in members],
        compatibility=[t for m in others for t in compatibility(
            first.label, m.label, compare_parties(first.model, m.model))],
        tables=[Table(f"{result.scored_by} on the centre's validation cases", as_text(result.table, 4),
                      "On the preprocessed grid, without mirroring."),
                *([Table("The lines between the models", as_text(result.check.table()), folded=True)]
                  if result.check.lines else []), *parts.tables],
        figures=[Figure(os.path.join(folder, FIGURE), f"Coefficients, fold {fold}", "Plot of each model's merging "
                        "coefficients over the groups of the network.")],
        cases=parts.cases, cases_note=parts.cases_note,
        limits=[CHOSEN_ON_THE_SAME.format(what="What was written"), *LIMITS], missing=parts.missing,
        commands=result.commands)
