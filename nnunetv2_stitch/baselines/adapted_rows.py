"""What a comparison trains through nnUNetv2_adapt_party: the partner adapted to the host's images, once for all rows
that are made with it, and the host trained on for as many steps."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from nnunetv2_stitch.baselines.datasets import data_of
from nnunetv2_stitch.baselines.rows import Answer
from nnunetv2_stitch.bridging.names import NO_MAPS
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.exchange.parents import Partner
from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.parties.checkpoint import sha256
from nnunetv2_stitch.parties.model_folder import FINAL, ModelFolder
from nnunetv2_stitch.pipeline.job import Job
from nnunetv2_stitch.pipeline.prepare import examine
from nnunetv2_stitch.provenance import Provenance, begin
from nnunetv2_stitch.training.adapt import adapt, provenance, train_on
from nnunetv2_stitch.training.adapt_job import PLANS, AdaptJob, AdaptRequest, prepare
from nnunetv2_stitch.training.adapt_output import RECORD
from nnunetv2_stitch.training.adapt_session import RECORD_FILE
from nnunetv2_stitch.training.line import ALPHAS, training_folder

if TYPE_CHECKING:
    from nnunetv2_stitch.baselines.row_maker import RowMaker

LONGER = "nnUNetLongerPlans"


@dataclass(frozen=True)
class Adapted:
    """An adapted partner. `folder`: the model at `alpha`; `trained`: the one at 1. `reason`: of the choice of alpha.
    `budget`: how long it was trained on, in words."""

    folder: str
    trained: str
    alpha: float
    reason: str
    budget: str


def adapt_request(job: Job, epochs: int | None, iterations: int | None) -> AdaptRequest:
    """The partner adapted as nnUNetv2_adapt_party would, under the name of the user's own; `epochs`, `iterations`: None
    for that command's."""
    return _request(job, job.partner, PLANS, epochs, iterations, job.request.fold_b, job.request.names)


def adapt_partner(job: Job, epochs: int | None, iterations: int | None, device: torch.device, progress: bool,
                  say: Callable[[str], None]) -> Adapted:
    """The partner adapted to the host's images: the user's own where it was made of exactly this, else one that is made
    for the comparison, or gone on with.

    Args:
        epochs, iterations: of adapting; None for the defaults.
        say: is told each step in a line.
    """
    request = adapt_request(job, epochs, iterations)
    adapting, record = _named(job, request, "adapted partner", 1)
    folder = _users_own(adapting)
    if folder is None:
        begin(adapting.model_folder, record)
        folder = adapt(adapting, device, True, False, progress, say).model_folder
    found = read_json(os.path.join(folder, RECORD))
    trained = training_folder(folder)
    return Adapted(folder, trained, found["alpha"], found["reason"], _budget(trained, job))


def train_longer(job: Job, epochs: int | None, iterations: int | None, device: torch.device, progress: bool,
                 say: Callable[[str], None]) -> tuple[str, str]:
    """The host's own model trained on exactly as its partner is adapted: same trainer, learning rate, steps, batches of
    the same images. Returns its folder, and how long in words.

    Args:
        epochs, iterations: of adapting; None for the defaults.
        say: is told each step in a line.
    """
    request = _request(job, job.host, LONGER, epochs, iterations)
    longer, record = _named(job, request, "host trained on", 0)
    begin(longer.model_folder, record)
    folder = train_on(longer, device, True, progress, say, "training A's own model on")
    return folder, _budget(folder, job)


def _request(job: Job, model: ModelFolder, plans_name: str, epochs: int | None, iterations: int | None,
             fold: int | str | None = None, names=None) -> AdaptRequest:
    partner = Partner(model=model.path, fold=fold, checkpoint_name=model.checkpoint_name)
    return AdaptRequest(job.host.dataset_name, partner if names is None else replace(partner, names=names),
                        folds=job.folds, epochs=epochs, iterations=iterations, plans_name=plans_name, seed=job.seed,
                        host=job.host).complete()


def _named(job: Job, request: AdaptRequest, kind: str, parent: int) -> tuple[AdaptJob, Provenance]:
    """The checked job under a name of its own, and what it is made of. `parent`: 0 to train the host on, 1 for the
    partner.

    Raises:
        StitchError: what nnUNetv2_adapt_party refuses.
    """
    parents = job.stitching.parents
    models = (job.host, job.partner)
    digests = [{str(f): parents[p].sha256(f) for f in job.folds} for p in (parent, 0)]
    record = Provenance(kind, {
        "parents": digests, "data": data_of(job.host),
        "preprocessing": models[parent].configuration_manager.configuration,
        "labels and channels": asdict(request.partner.names), "epochs": request.epochs,
        "iterations": request.iterations, "learning rate": request.rate, "alphas": list(ALPHAS),
        "tolerance": request.tolerance, "alpha": request.alpha, "folds": job.folds, "seed": request.seed})
    return prepare(replace(request, plans_name=record.name(request.plans_name)), continue_training=True), record


def _users_own(adapting: AdaptJob) -> str | None:
    """The user's own adapted partner, if it is finished and was made of exactly what the job is made of."""
    folder = os.path.join(os.path.dirname(adapting.result_folder),
                          os.path.basename(adapting.result_folder).replace(adapting.plans_name, PLANS))
    path, trained = os.path.join(folder, RECORD), training_folder(folder)
    ends = [os.path.join(f, f"fold_{fold}", FINAL) for fold in adapting.folds for f in (folder, trained)]
    if not os.path.isfile(path) or not all(map(os.path.isfile, ends)):
        return None
    there = read_json(path)
    hosts = {str(f): sha256(adapting.host.checkpoint_path(f)) for f in adapting.folds} if adapting.host else {}
    same = Provenance.from_json(there) == provenance(adapting, adapting.folds, hosts)
    return folder if same and there.get("complete", True) else None


def _budget(trained: str, job: Job) -> str:
    told = read_json(os.path.join(trained, f"fold_{job.folds[0]}", RECORD_FILE))
    return (f"{told['num_epochs']} epochs of {told['num_iterations_per_epoch']} iterations at learning rate "
            f"{told['learning_rate']:g}")


class AdaptedRows:
    """The rows that are made with the adapted partner, and the one that makes their budget equal; what adapting made is
    used by all. `maker`: of the comparison's rows."""

    KEYS = ("A_longer", "adapted", "adapted_only", "stitched_adapted", "gated_adapted")

    def __init__(self, maker: RowMaker):
        self.maker = maker

    def make(self, key: str) -> Answer:
        return getattr(self, f"_{key}")()

    def _trainings(self) -> tuple:
        maker = self.maker
        return maker.job, maker.epochs, maker.iterations, maker.device, maker.progress, maker.say

    @cached_property
    def _partner(self) -> Adapted:
        return adapt_partner(*self._trainings())

    @cached_property
    def _job(self) -> Job:
        """The comparison's stitches, of the host and the adapted partner, which is in the host's terms."""
        host = self.maker.host
        return examine(replace(
            self.maker.job.request, configuration=host.configuration, folds=self.maker.folds, trainer_a=host.trainer,
            plans_a=host.plans_name, dataset_b=None, model_b=self._partner.folder, trainer_b=None, plans_b=None,
            fold_b=None, checkpoint_b=FINAL, names=NO_MAPS))

    def _A_longer(self) -> Answer:
        folder, budget = train_longer(*self._trainings())
        return Answer(folder, self.maker.folds, detail=f"{budget} from A's weights, as the adapted B")

    def _adapted(self) -> Answer:
        found = self._partner
        return Answer(found.folder, self.maker.folds, detail=f"alpha {found.alpha:g}, {found.reason}; {found.budget}",
                      named=f"alpha {found.alpha:g}")

    def _adapted_only(self) -> Answer:
        return Answer(self._partner.trained, self.maker.folds, detail=self._partner.budget, named="alpha 1")

    def _stitched_adapted(self) -> Answer:
        return self._said(self.maker.by_rule("double_batched", "2", "ensemble", self._job))

    def _gated_adapted(self) -> Answer:
        return self._said(self.maker.with_gate(self._job))

    def _said(self, answer: Answer) -> Answer:
        alpha = f"alpha {self._partner.alpha:g}"
        return replace(answer, named=alpha, detail=f"B at {alpha}; {answer.detail}")


def adapting_obstacle(job: Job, epochs: int | None, iterations: int | None, of_host: bool) -> str | None:
    """Why nnUNetv2_adapt_party could not train the partner (the host) on here, or None."""
    request = _request(job, job.host, LONGER, epochs, iterations) if of_host else adapt_request(job, epochs, iterations)
    try:
        _named(job, request, "host trained on" if of_host else "adapted partner", 0 if of_host else 1)
    except StitchError as error:
        return str(error)
    return None
