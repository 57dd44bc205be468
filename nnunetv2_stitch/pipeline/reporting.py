"""Report: what was chosen and how good it is, as a result, a record, a card and figures."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nnunetv2_stitch.command_lines import Command
from nnunetv2_stitch.exchange.card import CARD
from nnunetv2_stitch.figures import dice_over_position, matches_by_partner
from nnunetv2_stitch.figures.gate_shares import gate_shares
from nnunetv2_stitch.figures.mixing_weights import mixing_weights
from nnunetv2_stitch.figures.positions_plane import positions_plane
from nnunetv2_stitch.fileio import read_json, write_json, write_text
from nnunetv2_stitch.parties.checkpoint import sha256
from nnunetv2_stitch.pipeline.choosing import Chosen
from nnunetv2_stitch.pipeline.gating import GATE_FIGURE
from nnunetv2_stitch.pipeline.guided import GUIDED_FIGURE
from nnunetv2_stitch.pipeline.job import Job
from nnunetv2_stitch.pipeline.measuring import Measured
from nnunetv2_stitch.pipeline.stitched_card import stitched_card
from nnunetv2_stitch.selection.partners_numbers import Choice
from nnunetv2_stitch.selection.rules import label_free_agreement
from nnunetv2_stitch.selection.sweep import Sweep
from nnunetv2_stitch.stitching.supernet import STITCHES_FILE

SELECTION_FILE = "stitch_selection.json"
SWEEP_FIGURE = "dice_over_position.png"
PARETO = "pareto"  # in the place of a rule, where partners' numbers took part


@dataclass(frozen=True)
class StitchResult:
    """A finished stitched model. `positions` are the chosen ones by fold, one per partner; `position_names` are of the
    first fold, which differs from others by rule 1 and loo. `table` has one row per fold: Dice on the host's
    validation cases of A, B, plain ensemble and the stitched ensemble at each rule's choice. `choices` are there where
    partners' numbers took part, one per partner. `weighted`: mixing weights of all positions, none is chosen.
    `commands`: what to do next, each with what it does."""

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
    commands: tuple[Command, ...] = ()

    @property
    def position(self) -> int:
        """The first fold's, of several partners the lowest."""
        return self.positions[self.folds[0]][0]

    @property
    def position_name(self) -> str:
        return self.position_names[0]


def result_of(job: Job, chosen: Chosen, measured: Measured, figures: Sequence[str]) -> StitchResult:
    return StitchResult(
        model_folder=job.model_folder, dataset=job.host.dataset_name, configuration=job.host.configuration,
        trainer=job.trainer, plans_name=job.request.plans_name, folds=job.folds, positions=chosen.positions,
        position_names=[job.layout.position_name(p) for p in chosen.positions[job.folds[0]]], table=measured.table,
        remarks=[*chosen.remarks, *measured.remarks], figures=list(figures), choices=tuple(chosen.choices),
        weighted=chosen.is_weighted)


def figures_there(job: Job) -> list[str]:
    """The figures of what is deployed, in the order in which `report` draws them."""
    parties = list(job.layout.nodes)[2:]
    names = [*_names(job), "matches.png", *(f"matches_{party}.png" for party in parties)]
    return [path for n in names if os.path.isfile(path := os.path.join(job.model_folder, n))]


def _names(job: Job) -> list[str]:
    return [SWEEP_FIGURE, GUIDED_FIGURE, *_pareto_figures(job), GATE_FIGURE]


def _pareto_figures(job: Job) -> list[str]:
    return [f"{PARETO}.png", *(f"{PARETO}_partner{n}.png" for n in range(2, len(job.partners) + 1))]


def stitches_of(job: Job, folds: Iterable[int | str]) -> dict[str, str]:
    """The sha256 of the folds' stitches, which tell one choice from another that looks the same."""
    return {str(f): sha256(os.path.join(job.model_folder, f"fold_{f}", STITCHES_FILE)) for f in folds}


def report(job: Job, sweeps: Sequence[Sweep], chosen: Chosen, measured: Measured) -> StitchResult:
    """Write `stitch_selection.json`, the card and the figures of what is deployed now; figures of what was deployed
    before are removed."""
    gate, choices, positions = measured.gate, chosen.choices, chosen.positions
    remarks = [*chosen.remarks, *measured.remarks]
    write_json(os.path.join(job.model_folder, SELECTION_FILE), {
        "rule": PARETO if choices else job.request.rule,
        **({PARETO: [c.to_json() for c in choices]} if choices else {}),
        "positions": {str(f): list(p) for f, p in positions.items()},
        "names": {str(f): [job.layout.position_name(k) for k in p] for f, p in positions.items()},
        "settings": {str(f): s.to_json() for f, s in chosen.settings.items()},
        "stitches": stitches_of(job, chosen.settings),
        **({"gate": gate.record} if gate else {}),
        "validation_dice": measured.table, "remarks": remarks, "seed": job.seed,
        "label_free_spearman": {str(s.fold): label_free_agreement(s) for s in sweeps},
    })
    text = stitched_card(read_json(job.plans_file), job.host.configuration, job.host.dataset_json, measured.table,
                         remarks)
    write_text(os.path.join(job.model_folder, CARD), text)
    return result_of(job, chosen, measured, _figures(job, sweeps, chosen, measured))


def _figures(job: Job, sweeps: Sequence[Sweep], chosen: Chosen, measured: Measured) -> list[str]:
    def path(name: str) -> str:
        return os.path.join(job.model_folder, name)

    marked = () if chosen.is_weighted else chosen.positions[job.folds[0]]
    scored, guided, gate, drawn = [s.to_json() for s in sweeps if s.scorable], chosen.guided, measured.gate, []
    adapted = [name for name, p in zip(list(job.layout.nodes)[1:], job.partners) if p.is_adapted]
    if scored:
        drawn.append(dice_over_position(scored, marked, path(SWEEP_FIGURE), adapted))
    if guided:
        drawn.append(mixing_weights([g.positions for g in guided.values()], [g.weights for g in guided.values()],
                                    path(GUIDED_FIGURE)))
    for name, choice in zip(_pareto_figures(job), chosen.choices):
        drawn.append(positions_plane(choice.front.to_json(), choice.position, path(name), choice.preference,
                                     len(adapted) == len(job.partners)))
    if gate:
        drawn.append(gate_shares(gate.record, path(GATE_FIGURE)))
    for name in _names(job):
        if path(name) not in drawn:  # of an earlier choice
            with contextlib.suppress(FileNotFoundError):
                os.remove(path(name))
    return [*drawn, *matches_by_partner(job.layout, job.model_folder, marked)]
