"""report.html of a student: the last step of a distillation that is validated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from nnunetv2.paths import nnUNet_results

from nnunetv2_stitch.distillation.prepare import DistillJob
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.evaluation.party_cards import Card, alone, card_of, card_of_record, letter
from nnunetv2_stitch.evaluation.result_page import LIMITS, ResultPage, write_page
from nnunetv2_stitch.evaluation.result_parts import measured_and_shown
from nnunetv2_stitch.evaluation.validated import Answer
from nnunetv2_stitch.fileio import found_again
from nnunetv2_stitch.parties.model_folder import read_model_folder
from nnunetv2_stitch.stitching.plans import ParentRecord, Stitching
from nnunetv2_stitch.stitching.setting import party_names

if TYPE_CHECKING:
    from nnunetv2_stitch.distillation.run import DistillResult


def write_student_page(job: DistillJob, result: DistillResult, device: torch.device,
                       say: Callable[[str], None] = lambda line: None) -> str | None:
    """Write the page of a validated student; see `write_page`."""
    return write_page(job.model_folder, lambda: _page(job, result, device), say)


def _page(job: DistillJob, result: DistillResult, device: torch.device) -> ResultPage:
    folds = {f: f for f in job.folds}
    parents = Stitching.of(job.teacher.configuration_manager.configuration).parents
    host = parents[0]
    answers = [Answer(alone(0, host.adapted), found_again(host.folder, str(nnUNet_results)), _folds(host, job),
                      checkpoint_name=host.checkpoint, is_host_alone=True),
               *(Answer(alone(i, parents[i].adapted), job.teacher.path, folds, mode)
                 for i, mode in enumerate(party_names(len(parents))[1:], 1)),
               Answer("teacher", job.teacher.path, folds, has_maps=True),
               Answer("student", job.model_folder, folds)]
    parts = measured_and_shown(job.dataset, answers, device)
    student, teacher = job.parameters
    return ResultPage(
        title=f"{job.dataset}, a student of a stitched ensemble", command="nnUNetv2_distill_stitched",
        what=f"One plain network that was taught what a stitched ensemble knows, with the images of {job.dataset} (A). "
             f"An ordinary nnU-Net model of A.",
        dataset=job.dataset,
        said=[*parts.said, f"Student: {student:,} parameters; teacher: {teacher:,}.",
              f"Taught by {result.taught_by}; started from {result.start}.", *result.remarks],
        joined="What taught it", cards=[_teacher_card(job), *_parent_cards(job, parents)], tables=parts.tables,
        cases=parts.cases, cases_note=parts.cases_note,
        limits=["What a student forgets is seen first on cases that are not like A's, and those are not here.",
                *LIMITS], missing=parts.missing,
        commands=result.commands)


def _folds(record: ParentRecord, job: DistillJob) -> dict[int | str, int | str]:
    own = {f: record.folds[str(f)]["fold"] for f in job.folds if str(f) in record.folds}
    return {f: int(name) if name.isdecimal() else name for f, name in own.items()}


def _teacher_card(job: DistillJob) -> Card:
    model = job.teacher
    return Card("The teacher", (("Dataset", model.dataset_name), ("Trainer", model.trainer),
                                ("Plans", model.plans_name), ("Configuration", model.configuration),
                                ("Folds", ", ".join(map(str, job.folds)))))


def _parent_cards(job: DistillJob, parents: tuple[ParentRecord, ...]) -> Iterator[Card]:
    for number, record in enumerate(parents):
        title = f"{letter(number)}, {'the host' if number == 0 else 'a partner'} of the teacher"
        try:
            model = read_model_folder(found_again(record.folder, str(nnUNet_results)), record.checkpoint)
            yield card_of(title, model, _folds(record, job), number == 0)
        except StitchError:  # a student needs its teacher alone, so parents may be gone
            yield card_of_record(title, record, number == 0)
