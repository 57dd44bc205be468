"""What is asked for (Request), and what it comes to once it is checked (Job)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from nnunetv2.paths import nnUNet_results

from nnunetv2_stitch.bridging.names import NO_MAPS, NameMaps
from nnunetv2_stitch.bridging.report import Report, label_remarks
from nnunetv2_stitch.command_lines import flags
from nnunetv2_stitch.exchange.parents import Partner, found_partner, partner_words
from nnunetv2_stitch.parties.model_folder import FINAL, ModelFolder
from nnunetv2_stitch.pipeline.memory import MemoryEstimate, estimate_memory
from nnunetv2_stitch.selection.retention import TOLERANCE
from nnunetv2_stitch.selection.rules import RETAIN
from nnunetv2_stitch.stitching.plans import Layout, Stitching
from nnunetv2_stitch.stitching.setting import in_ranges

TRAINERS = {"double_batched": "nnUNetTrainerStitch", "direct": "nnUNetTrainerStitchDirect",
            "task": "nnUNetTrainerStitchTask"}


@dataclass(frozen=True)
class Request:
    """What the user asked for, one field per flag of nnUNetv2_train_stitch. None means: choose sensibly. `more` are the
    partners beside B. `checkpoint_name` is that of all parents but those with one of their own: `checkpoint_a`,
    `checkpoint_b`, `Partner.checkpoint_name`. `comparison` marks what is only trained for a comparison."""

    dataset_a: str | int | None
    dataset_b: str | int | None
    model_a: str | None = None
    model_b: str | None = None
    configuration: str | None = None
    folds: Sequence[int | str] | None = None
    trainer_a: str | None = None
    trainer_b: str | None = None
    plans_a: str | None = None
    plans_b: str | None = None
    fold_b: int | str | None = None
    checkpoint_name: str = "checkpoint_final.pth"
    checkpoint_a: str | None = None
    checkpoint_b: str | None = None
    fit: str = "double_batched"
    positions: str | Sequence[int] = "all"
    rule: str | None = None
    tolerance: float = TOLERANCE
    search_steps: int = 100
    position: int | float | Sequence[int] | None = None
    output: str = "ensemble"
    combine: str = "probabilities"
    gate: bool = False
    epochs: int | None = None
    iterations: int | None = None
    plans_name: str = "nnUNetStitchPlans"
    seed: int | None = None
    checkpoint_segments: int | str = 1
    positions_per_pass: int | None = None
    half_targets: bool = False
    names: NameMaps = NO_MAPS
    more: Sequence[Partner] = ()
    comparison: bool = False

    def __post_init__(self):
        if self.rule is None:
            object.__setattr__(self, "rule", default_rule(self.position, self.gate))

    @property
    def partners(self) -> tuple[Partner, ...]:
        return (Partner(self.dataset_b, self.model_b, self.trainer_b, self.plans_b, self.fold_b, self.names,
                        self.checkpoint_b), *self.more)

    def with_parties(self, host: ModelFolder, partners: Sequence[ModelFolder]) -> Request:
        """The same of models that are found, by their folders; see `found_partner`."""
        first, *more = map(found_partner, self.partners, partners)
        return replace(
            self, dataset_a=None, model_a=host.path, trainer_a=None, plans_a=None, configuration=host.configuration,
            checkpoint_name=FINAL, checkpoint_a=None if host.checkpoint_name == FINAL else host.checkpoint_name,
            dataset_b=None, model_b=first.model, trainer_b=None, plans_b=None, checkpoint_b=first.checkpoint_name,
            more=tuple(more))

    def words(self) -> list[str]:
        """Arguments of nnUNetv2_train_stitch that ask for the same, of parties that are named by their models."""
        rule = None if self.rule == default_rule(self.position, self.gate) else self.rule
        written = replace(self, gate=False, positions=self.positions if isinstance(self.positions, str) else
                          in_ranges(self.positions))
        return [*flags(written, FLAGS), *partner_words(self.partners), *(["-rule", rule] if rule else []),
                *(["-gate", "on"] if self.gate else [])]


#: Flag of every field of Request; None where `Request.words` says it otherwise, or it has no flag.
FLAGS = {
    "dataset_a": None, "model_a": "-m_a", "configuration": "-c", "folds": "-f", "trainer_a": "-tr_a",
    "plans_a": "-p_a", "checkpoint_name": "-chk", "checkpoint_a": "-chk_a", "fit": "-fit", "positions": "-positions",
    "rule": None, "tolerance": "-tolerance", "search_steps": "-search_steps", "position": "-position",
    "output": "-output", "combine": "-combine", "gate": None, "epochs": "-epochs", "iterations": "-iterations",
    "plans_name": "-o_p", "seed": "-seed", "checkpoint_segments": "-checkpoint_segments",
    "positions_per_pass": "-positions_per_pass", "half_targets": "--half_targets", "comparison": None,
    **dict.fromkeys(("dataset_b", "model_b", "trainer_b", "plans_b", "fold_b", "checkpoint_b", "names", "more")),
}


def default_rule(position: object, gate: bool) -> str:
    """Where none is named: the given position, else the paper's rule 2. Behind a gate retention, and there only the
    host alone is to be reached, not the best position: the gate keeps the host's own cases, and even shares are for
    images like no party's."""
    return "3" if position is not None else RETAIN if gate else "2"


@dataclass(frozen=True)
class Job:
    """A checked request: all parties, the layout, the folds and the plans to be written. `partner_folds` are by the
    fold of the host, one dict per partner, as `partners` and `reports`; `parameters` are by name of the parent."""

    request: Request
    host: ModelFolder
    partners: list[ModelFolder]
    reports: list[Report]
    layout: Layout
    folds: list[int | str]
    partner_folds: list[dict[int | str, int | str]]
    plans: dict
    positions: list[int]
    fixed_positions: list[int]
    parameters: dict[str, int]
    stitch_parameters: int

    @property
    def partner(self) -> ModelFolder:
        """The first, or only one."""
        return self.partners[0]

    @cached_property
    def memory(self) -> MemoryEstimate:
        """Takes seconds to a minute, so only where it is asked for."""
        return estimate_memory(self.configuration, self.host.num_input_channels, self.host.num_outputs,
                               self.fixed_positions)

    @property
    def label_remarks(self) -> list[str]:
        """What to know of labels that one party alone has."""
        return [line for partner, asked in zip(self.partners, self.request.partners)
                for line in label_remarks(self.host, partner, asked.names)]

    @property
    def configuration(self) -> dict:
        """The stitched one of the plans."""
        return self.plans["configurations"][self.host.configuration]

    @property
    def stitching(self) -> Stitching:
        """What is ours alone in that configuration."""
        return Stitching.of(self.configuration)

    @property
    def seed(self) -> int:
        return self.stitching.training.seed

    @property
    def trainer(self) -> str:
        return TRAINERS[self.request.fit]

    @property
    def model_folder(self) -> str:
        return os.path.join(str(nnUNet_results), self.host.dataset_name,
                            f"{self.trainer}__{self.request.plans_name}__{self.host.configuration}")

    @property
    def preprocessed_folder(self) -> str:
        return self.host.preprocessed_folder

    @property
    def plans_file(self) -> str:
        return os.path.join(self.preprocessed_folder, f"{self.request.plans_name}.json")
