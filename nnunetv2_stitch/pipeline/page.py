"""report.html of a stitched model: the last step of a training or choice."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from shlex import quote

import torch

from nnunetv2_stitch.evaluation.page import Figure
from nnunetv2_stitch.evaluation.party_cards import card_of, letter
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
from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.pipeline.gating import GATE_FIGURE
from nnunetv2_stitch.pipeline.guided import GUIDED_FIGURE
from nnunetv2_stitch.pipeline.job import Job
from nnunetv2_stitch.pipeline.reporting import SWEEP_FIGURE, StitchResult
from nnunetv2_stitch.pipeline.stitched_card import describe, describe_gate
from nnunetv2_stitch.stitching.plans import Stitching, shown_names
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
    with ExitStack() as stack:
        return write_page(job.model_folder, lambda: _page(job, result, device, stack), say)


def _page(job: Job, result: StitchResult, device: torch.device, stack: ExitStack) -> ResultPage:
    arguments = read_json(job.plans_file)["configurations"][job.host.configuration]["architecture"]["arch_kwargs"]
    parties, folds = (job.host, *job.partners), _own_folds(job)
    letters = [letter(i) for i in range(len(parties))]
    answers = [Answer("A alone", job.host.path, folds[0], checkpoint_name=job.host.checkpoint_name),
               *(Answer(f"{name} alone", job.model_folder, folds[0], mode)
                 for name, mode in zip(letters[1:], party_names(len(parties))[1:])),
               Answer("stitched", job.model_folder, folds[0], has_maps=True)]
    parts = stack.enter_context(measured_and_shown(job.host.dataset_name, answers, device))
    host, *partners = shown_names(job.stitching.parents)
    names = " and ".join(partners)
    said = [f"Deployed: {describe(arguments['setting'])}.",
            *([f"Gate: {describe_gate(arguments['gate'])}."] if arguments.get("gate") else []), *result.remarks]
    return ResultPage(
        title=f"{host}, stitched with {names}", command="nnUNetv2_train_stitch",
        what=f"Trained nnU-Nets of {len(parties)} hospitals, joined to one by stitches between their layers, with the "
             f"images of {job.host.dataset_name} (A) alone. An ordinary nnU-Net model of A.",
        dataset=job.host.dataset_name, said=[*parts.said, *said],
        cards=[card_of(f"{name}, {'the host' if i == 0 else 'a partner'}", model, own, i == 0)
               for i, (name, model, own) in enumerate(zip(letters, parties, folds))],
        compatibility=[t for name, report in zip(letters[1:], job.reports) for t in compatibility("A", name, report)],
        tables=[*parts.tables, *_while_choosing(result)],
        figures=list(choice_figures(job.model_folder)), cases=parts.cases, cases_note=parts.cases_note,
        limits=[CHOSEN_ON_THE_SAME.format(what="The setting"), *LIMITS], missing=parts.missing,
        commands=_commands(job, result, letters))


def _own_folds(job: Job) -> list[dict[int | str, int | str]]:
    """By fold of the model each party's own, also of folds that earlier commands trained."""
    parents = Stitching.of(read_json(job.plans_file)["configurations"][job.host.configuration]).parents
    return [{f: _fold(p.folds[str(f)]["fold"]) for f in job.folds if str(f) in p.folds} for p in parents]


def _fold(name: str) -> int | str:
    return int(name) if str(name).isdecimal() else name


def _while_choosing(result: StitchResult) -> Iterator[Table]:
    if result.table:
        yield Table("While choosing, by fold", as_text(result.table), "Mean Dice on the preprocessed grid, without "
                    "mirroring, which is why these numbers differ a little from those above. `chosen` is what is "
                    "deployed.", folded=True)


def choice_figures(folder: str) -> Iterator[Figure]:
    """The figures that are in the model folder now."""
    there = sorted(n for n in os.listdir(folder) if n.endswith(".png"))
    for stem, title, alt in FIGURES:
        for name in there:
            if name == stem or name.startswith((f"{stem}.", f"{stem}_")):
                partner = name.removesuffix(".png").removeprefix(f"{stem}_").replace("partner", ", partner ")
                whose = partner if partner.startswith(",") else ""
                yield Figure(os.path.join(folder, name), f"{title}{whose}", alt, "choice")


def _commands(job: Job, result: StitchResult, letters: Sequence[str]) -> list[tuple[str, str]]:
    which = f"-d {result.dataset} -c {result.configuration} -tr {result.trainer} -p {result.plans_name} " \
            f"-f {' '.join(map(str, result.folds))}"
    host, model = quote(job.host.path), quote(job.model_folder)
    models = " ".join(quote(f"{name}={path}") for name, path in (
        ("A alone", job.host.path), *((f"{n} alone", p.path) for n, p in zip(letters[1:], job.partners)),
        ("plain ensemble", f"{job.model_folder}@ensemble"), ("stitched", job.model_folder)))
    commands = [
        ("Predict", f"nnUNetv2_predict_stitched -i INPUT_FOLDER -o OUTPUT_FOLDER {which}"),
        ("Predict with stock nnU-Net, where this package is installed",
         f"nnUNetv2_predict -i INPUT_FOLDER -o OUTPUT_FOLDER {which}"),
        ("Look at a case", f"nnUNetv2_stitch_view -m {model} -i IMAGE_FILE -l LABEL_FILE -o OUTPUT_FOLDER"),
        ("Evaluate on test cases with labels, yours and others'",
         f"nnUNetv2_evaluate_stitched -models {models} -datasets A=TEST_CASES_OF_A B=TEST_CASES_OF_B -o OUTPUT_FOLDER"),
        ("Teach one plain network what this one knows", f"nnUNetv2_distill_stitched -m {model} -d {result.dataset}")]
    if not job.request.gate and job.request.output == "ensemble":
        parties = " ".join(["-m_a", host, "-m_b", *(quote(p.path) for p in job.partners)])
        commands.append(("Give each image its own shares of the parties",
                         f"nnUNetv2_train_stitch {parties} -c {result.configuration} -fit {job.request.fit} "
                         f"-o_p {result.plans_name} --select -gate on"))
    return commands
