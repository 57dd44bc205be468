"""Making each row of a comparison: which model it is, trained where it is not there yet."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import cached_property

import torch
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_results
from nnunetv2.utilities.file_path_utilities import get_output_folder

from nnunetv2_stitch.baselines.adapted_rows import AdaptedRows
from nnunetv2_stitch.baselines.datasets import borrow_plans, data_of, pool_datasets
from nnunetv2_stitch.baselines.rows import WITHOUT_DOUBLE_BATCHED, Answer
from nnunetv2_stitch.baselines.soup import average_weights
from nnunetv2_stitch.baselines.stitched import RULE_3_PROGRESS, rule_settings, weighted_shares
from nnunetv2_stitch.baselines.trained_stitches import find_or_train, gated, guided, retained
from nnunetv2_stitch.distillation import distill
from nnunetv2_stitch.distillation.record import Distillation
from nnunetv2_stitch.distillation.teacher import load_teacher, read_teacher
from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.merging.output import RECORD
from nnunetv2_stitch.merging.run import MergeRequest, merge_guided
from nnunetv2_stitch.parties.checkpoint import sha256
from nnunetv2_stitch.parties.model_folder import FINAL, ModelFolder, read_model_folder
from nnunetv2_stitch.pipeline.job import Job
from nnunetv2_stitch.provenance import Provenance, begin
from nnunetv2_stitch.selection.sweep import sweeps_of
from nnunetv2_stitch.stitching.setting import Setting
from nnunetv2_stitch.training.stock import budget, train_network

# Plans that baselines are trained under. They say in the name of a model folder what the model is; what it was made of
# is told by the digest that follows.
FINETUNED, POOLED, FEDERATED, SOUP = ("nnUNetFinetunedPlans", "nnUNetMergedPlans", "nnUNetFederatedPlans",
                                      "nnUNetSoupPlans")
TAUGHT, UNTAUGHT = "nnUNetTaughtPlans", "nnUNetUntaughtPlans"
GUIDED_MERGE = "nnUNetGuidedMergePlans"
RULES = {"stitched": "2", "stitched_rule1": "1", "stitched_rule3": "3", "stitched_loo": "loo",
         "stitched_label_free": "r2"}


class RowMaker:
    """Makes the rows of one comparison. What was made of exactly the same is reused or, where it was interrupted, gone
    on with; everything else gets another name."""

    def __init__(self, job: Job, rows: Collection[str], device: torch.device, progress: bool, epochs: int | None,
                 iterations: int | None, say: Callable[[str], None]):
        self.unstitched = "direct" if WITHOUT_DOUBLE_BATCHED.issuperset(rows) else "double_batched"
        self.job, self.device, self.progress, self.say = job, device, progress, say
        self.host, self.partner, self.folds = job.host, job.partner, job.folds
        self.seed = job.seed
        self.epochs, self.iterations = epochs, iterations
        self._fitted: dict[tuple[str, str], str] = {}
        self._adapted_rows = AdaptedRows(self)

    def make(self, key: str) -> Answer:
        """Train or find what the row `key` of `rows.ROWS` answers with."""
        if key in RULES:
            return self.by_rule("double_batched", RULES[key], "ensemble")
        if key in AdaptedRows.KEYS:
            return self._adapted_rows.make(key)
        return getattr(self, f"_{key}")()

    # -- the parents and their ensembles -----------------------------------------------------------------------------

    def _A_alone(self) -> Answer:
        return Answer(self.host.path, self.folds, checkpoint_name=self.host.checkpoint_name)

    def _B_alone(self) -> Answer:
        return Answer(self.partner.path, sorted({self.job.partner_folds[0][f] for f in self.folds}, key=str),
                      checkpoint_name=self.partner.checkpoint_name)

    def _plain_ensemble(self) -> Answer:
        return self._with_setting(self.unstitched, Setting())

    def _plain_ensemble_logits(self) -> Answer:
        return self._with_setting(self.unstitched, Setting(combine="logits"))

    def _weighted_ensemble(self) -> Answer:
        folder = self.stitches(self.unstitched)
        share, means = weighted_shares(folder, self.host.configuration, self.folds, str(nnUNet_results),
                                       str(nnUNet_preprocessed), self.device)
        answer = self._with_setting(self.unstitched, Setting(host_share=share))
        return replace(answer, detail=f"A's share {share:g}, chosen on A's validation cases ({means[share]:.3f})")

    # -- stitches ----------------------------------------------------------------------------------------------------

    def _stitched_host_head(self) -> Answer:
        return self.by_rule("double_batched", "2", "host")

    def _stitched_retain(self) -> Answer:
        return retained(self.job, self.stitches("double_batched"))

    def _direct(self) -> Answer:
        return self.by_rule("direct", "2", "ensemble")

    def _task(self) -> Answer:
        return self.by_rule("task", "2", "ensemble")

    def _stitched_many(self) -> Answer:
        return self._everywhere("double_batched")

    def _direct_many(self) -> Answer:
        return self._everywhere("direct")

    def _task_many(self) -> Answer:
        return self._everywhere("task")

    def _guided(self) -> Answer:
        return guided(self.job, self.stitches("double_batched"), self.device, self.say)

    def _everywhere(self, fit: str) -> Answer:
        answer = self._with_setting(fit, Setting.average_at(*self.job.positions))
        return replace(answer, detail=f"{2 * len(self.job.positions)} active stitches")

    def by_rule(self, fit: str, rule: str, output: str, job: Job | None = None) -> Answer:
        """`job`: of other parents than the comparison's."""
        folder = self.stitches(fit, job)
        layout = (job or self.job).layout
        settings = rule_settings(sweeps_of(folder, self.folds), rule, layout.progress(), output,
                                 self.job.request.combine)
        chosen = {f: min(s.switches) for f, s in settings.items()}
        names = {p: layout.position_name(p) for p in chosen.values()}
        if len(names) == 1:
            detail = "; ".join(f"position {p}, {n}" for p, n in names.items())
        else:
            detail = "positions " + ", ".join(f"{p} (fold {f})" for f, p in chosen.items())
        if rule == "3":
            detail += f", fixed at {RULE_3_PROGRESS:.0%} of the host's depth"
        return Answer(folder, self.folds, settings, detail)

    def _with_setting(self, fit: str, setting: Setting) -> Answer:
        return Answer(self.stitches(fit), self.folds, {f: setting for f in self.folds})

    def stitches(self, fit: str, job: Job | None = None) -> str:
        """The model folder of one way of fitting; see `find_or_train`."""
        job = job or self.job
        key = fit, job.partner.path
        if key not in self._fitted:
            self._fitted[key] = find_or_train(job, fit, self.device, self.progress, self.say)
        return self._fitted[key]

    def _gated(self) -> Answer:
        return self.with_gate(self.job)

    def with_gate(self, job: Job) -> Answer:
        return gated(job, self.stitches("double_batched", job), self.device, self.progress, self.say)

    # -- trainings of one network ------------------------------------------------------------------------------------

    def _distilled(self) -> Answer:
        return self._student(TAUGHT, weight=1.0)

    def _untaught(self) -> Answer:
        """The same start, seed, steps and data, so the same batches, without the teacher's term."""
        return self._student(UNTAUGHT, weight=0.0)

    def _student(self, stem: str, weight: float) -> Answer:
        teacher = self.stitches("double_batched")
        epochs, iterations = self._budget
        plans_name, _ = self._begin(
            stem, self.host, Distillation.trainer, parents=[self._sha256(0)], data=data_of(self.host),
            teacher=[sha256(os.path.join(teacher, f"fold_{f}", FINAL)) for f in self.folds], weight=weight,
            epochs=epochs, iterations=iterations)
        result = distill(teacher, self.host.dataset_name, device=self.device, continue_training=True, validate=False,
                         progress=self.progress, say=self.say, configuration=self.host.configuration, folds=self.folds,
                         weight=weight, epochs=epochs, iterations=iterations, plans_name=plans_name, seed=self.seed,
                         comparison=True)
        detail = f"{epochs} epochs from A's weights"
        if weight:
            networks = [load_teacher(read_teacher(teacher), f)[0] for f in self.folds]
            positions = sorted({p for network in networks for p in network.setting.switches})
            detail += f", taught by {result.taught_by} as deployed, position {', '.join(map(str, positions))}"
        return self._trained(result.model_folder, detail)

    def _soup(self) -> Answer:
        plans_name, folder = self._begin(SOUP, self.host, "nnUNetTrainer", parents=[self._sha256(0), self._sha256(1)])
        average_weights(self.host, self.partner, self.job.partner_folds[0], plans_name)
        return Answer(folder, self.folds)

    def _finetuned_B_on_A(self) -> Answer:
        starts = {f: self.partner.checkpoint_path(self.job.partner_folds[0][f]) for f in self.folds}
        return self._finetuned(self.partner, self._sha256(1), self.host, starts)

    def _finetuned_A_on_B(self) -> Answer:
        return self._finetuned(self.host, self._sha256(0), self.partner,
                               {f: self.host.checkpoint_path(f) for f in self.folds})

    def _finetuned(self, model: ModelFolder, weights: dict, owner: ModelFolder, starts: dict) -> Answer:
        plans_name, _ = self._begin(FINETUNED, owner, model.trainer, parents=[weights], data=data_of(owner),
                                    plans=_plans(model), epochs=self.epochs, iterations=self.iterations)
        borrow_plans(model, owner, plans_name)
        return self._train(owner.dataset_name, model, plans_name, starts)

    def _guided_merge(self) -> Answer:
        """The one pair here that has a common start."""
        answer = self._finetuned_B_on_A()
        tuned = read_model_folder(answer.model_folder, answer.checkpoint_name)
        plans_name, folder = self._begin(
            GUIDED_MERGE, self.host, "nnUNetTrainer", data=data_of(self.host), steps=self.job.request.search_steps,
            parents=[self._sha256(1), {f: sha256(tuned.checkpoint_path(f)) for f in self.folds}])
        for fold in self.folds:
            if not os.path.isfile(os.path.join(folder, f"fold_{fold}", RECORD)):
                self.say(f"fold {fold}: merging B with B fine-tuned on A")
                merge_guided(MergeRequest([self.partner, tuned], self.host.dataset_name, self.host.configuration, fold,
                                          plans_name, plans_name=tuned.plans_name,
                                          steps=self.job.request.search_steps, seed=self.seed), self.device, self.say,
                             page=False)
        written = {f: read_json(os.path.join(folder, f"fold_{f}", RECORD))["chosen"] for f in self.folds}
        return Answer(folder, self.folds, detail="written: " + ", ".join(dict.fromkeys(written.values())))

    def _pooled(self) -> Answer:
        record = self._record(POOLED, data=[data_of(self.host), data_of(self.partner)], plans=_plans(self.host),
                              trainer=self.host.trainer, epochs=self.epochs, iterations=self.iterations)
        plans_name = record.name(POOLED)
        dataset = pool_datasets(self.host, self.partner, plans_name)
        begin(self._folder(dataset, self.host.trainer, plans_name), record)
        return self._train(dataset, self.host, plans_name, dict.fromkeys(self.folds))

    def _train(self, dataset: str, model: ModelFolder, plans_name: str, starts: dict) -> Answer:
        """By the trainer of `model`, whose plans are those of the name."""
        trainer, steps = model.trainer, self._budget_of(model)
        for fold, start in starts.items():
            self.say(f"fold {fold}: training on {dataset}")
            train_network(dataset, self.host.configuration, fold, trainer, plans_name, self.device, start,
                          self.epochs, self.iterations, self.seed)
        return self._trained(self._folder(dataset, trainer, plans_name), "{} epochs of {} iterations".format(*steps))

    def _federated(self) -> Answer:
        from nnunetv2_stitch.baselines.federated import TRAINER, FederatedParty, federated_averaging
        epochs, iterations = self._budget
        parties = {"A": self.host, "B": self.partner}
        plans_name, folder = self._begin(
            FEDERATED, self.host, TRAINER, parties=[p.dataset_name for p in parties.values()],
            data=[data_of(p) for p in parties.values()], plans=_plans(self.host), epochs=epochs, iterations=iterations)
        for party in parties.values():
            borrow_plans(self.host, party, plans_name)
        federation = [FederatedParty(name, party.dataset_name, plans_name) for name, party in parties.items()]
        for fold in self.folds:
            if not os.path.isfile(os.path.join(folder, f"fold_{fold}", FINAL)):
                self.say(f"fold {fold}: {epochs} rounds of federated averaging")
                federated_averaging(federation, self.host.configuration, fold, folder, rounds=epochs,
                                    iterations=iterations, seed=self.seed, device=self.device.type, resume=True,
                                    say=self.say)
        return self._trained(folder, f"{epochs} rounds, one epoch of each party per round")

    # -- what rows are made of, and where they lie -------------------------------------------------------------------

    def _begin(self, stem: str, owner: ModelFolder, trainer: str, **made_from) -> tuple[str, str]:
        """Name of the plans, and the model folder beside `owner`'s models, of what is made from exactly this.

        Raises:
            StitchError: there is something else in the folder.
        """
        record = self._record(stem, trainer=trainer, **made_from)
        plans_name = record.name(stem)
        folder = self._folder(owner.dataset_name, trainer, plans_name)
        begin(folder, record)
        return plans_name, folder

    def _record(self, kind: str, **made_from) -> Provenance:
        return Provenance(kind, {**made_from, "configuration": self.host.configuration, "folds": self.folds,
                                 "seed": self.seed})

    def _folder(self, dataset: str, trainer: str, plans_name: str) -> str:
        return get_output_folder(dataset, trainer, plans_name, self.host.configuration)

    def _sha256(self, parent: int) -> dict[str, str]:
        """Of one parent's checkpoints, by the host's fold; 0 is the host."""
        record = self.job.stitching.parents[parent]
        return {str(f): record.sha256(f) for f in self.folds}

    def _trained(self, folder: str, detail: str = "") -> Answer:
        """A row that was trained here answers with the checkpoint that the parents' rows answer with, if it is there:
        a best one is compared with best ones."""
        name = self.host.checkpoint_name
        if all(os.path.isfile(os.path.join(folder, f"fold_{f}", name)) for f in self.folds):
            return Answer(folder, self.folds, detail=detail, checkpoint_name=name)
        missing = f"{FINAL}, because its training keeps no {name}"
        return Answer(folder, self.folds, detail=f"{detail}; {missing}" if detail else missing)

    @cached_property
    def _budget(self) -> tuple[int, int]:
        return self._budget_of(self.host)

    def _budget_of(self, model: ModelFolder) -> tuple[int, int]:
        """Epochs and iterations of what is trained as long as a model's trainer trains."""
        if self.epochs and self.iterations:  # then the trainer need not be installed
            return self.epochs, self.iterations
        epochs, iterations = budget(model.trainer, model.plans, model.configuration, model.dataset_json)
        return self.epochs or epochs, self.iterations or iterations


def _plans(model: ModelFolder) -> dict:
    """Of a model's plans what a training by them depends on."""
    rest = {k: v for k, v in model.plans.items() if k not in ("plans_name", "dataset_name", "configurations")}
    return {**rest, "configuration": model.configuration_manager.configuration}
