"""Making each row of a comparison: which model it is, trained where it is not there yet."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

import torch
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_results

from nnunetv2_stitch.baselines.datasets import borrow_plans, has_preprocessed, merge_datasets
from nnunetv2_stitch.baselines.rows import Answer
from nnunetv2_stitch.baselines.soup import average_weights
from nnunetv2_stitch.baselines.stitched import RULE_3_PROGRESS, rule_settings, weighted_shares
from nnunetv2_stitch.baselines.training import budget, fold_folder, train_network
from nnunetv2_stitch.distillation import distill
from nnunetv2_stitch.distillation.teacher import load_teacher, read_teacher
from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.guiding import guide_fold
from nnunetv2_stitch.merging.output import RECORD
from nnunetv2_stitch.merging.run import MergeRequest, merge_guided
from nnunetv2_stitch.pipeline.prepare import Job
from nnunetv2_stitch.pipeline.run import stitches_are_trained, train_stitch
from nnunetv2_stitch.selection.fold import SWEEP_FILE
from nnunetv2_stitch.selection.sweep import Sweep
from nnunetv2_stitch.stitching.setting import Setting

# Plans that baselines are trained under. They say in the name of a model folder what the model is.
FINETUNED, MERGED, FEDERATED, SOUP = ("nnUNetFinetunedPlans", "nnUNetMergedPlans", "nnUNetFederatedPlans",
                                      "nnUNetSoupPlans")
TAUGHT, UNTAUGHT = "nnUNetTaughtPlans", "nnUNetUntaughtPlans"
GUIDED_MERGE = "nnUNetGuidedMergePlans"
# Rows in which one network is trained, or averaged, on the terms of both parties.
ONE_PREPROCESSING = ("soup", "finetuned_B_on_A", "guided_merge", "finetuned_A_on_B", "merged", "federated")
RULES = {"stitched": "2", "stitched_rule1": "1", "stitched_rule3": "3", "stitched_loo": "loo",
         "stitched_label_free": "r2"}


class RowMaker:
    """Makes the rows of one comparison. Trainings that are finished are reused, interrupted ones go on."""

    def __init__(self, job: Job, device: torch.device, progress: bool, epochs: int | None, iterations: int | None,
                 say: Callable[[str], None]):
        self.job, self.device, self.progress, self.say = job, device, progress, say
        self.host, self.partner, self.folds = job.host, job.partner, job.folds
        self.seed = job.request.seed
        self.epochs, self.iterations = epochs, iterations

    def obstacle(self, key: str) -> str | None:
        """Why a row cannot be made here, or None."""
        if key == "stitched_loo" and len(self.folds) < 2:
            return "it needs at least two folds"
        if key in ONE_PREPROCESSING and not self.job.reports[0].bridge.is_identity:
            return "the parties' preprocessing differs (nnUNetv2_stitch_info says how)"
        if key == "soup" and self.host.network_spec != self.partner.network_spec:
            return "the two networks differ"
        if key == "guided_merge" and self.job.request.fold_b is not None:
            return "B's fold is fixed, and a merge takes the same fold of both"
        if key in ("finetuned_A_on_B", "merged", "federated") and not has_preprocessed(self.partner):
            return f"the images of {self.partner.dataset_name} are not preprocessed here"
        if key == "federated" and importlib.util.find_spec("flwr") is None:
            return 'Flower is not installed: pip install "nnunetv2-stitch[federated]"'
        return None

    def make(self, key: str) -> Answer:
        """Train or find what the row `key` of `rows.ROWS` answers with."""
        if key in RULES:
            return self._by_rule("double_batched", RULES[key], "ensemble")
        return getattr(self, f"_{key}")()

    # -- the parents and their ensembles -----------------------------------------------------------------------------

    def _A_alone(self) -> Answer:
        return Answer(self.host.path, self.folds)

    def _B_alone(self) -> Answer:
        return Answer(self.partner.path, sorted({self.job.partner_folds[0][f] for f in self.folds}, key=str))

    def _plain_ensemble(self) -> Answer:
        return self._with_setting("double_batched", Setting())

    def _plain_ensemble_logits(self) -> Answer:
        return self._with_setting("double_batched", Setting(combine="logits"))

    def _weighted_ensemble(self) -> Answer:
        folder = self._stitches("double_batched")
        share, means = weighted_shares(folder, self.host.configuration, self.folds, str(nnUNet_results),
                                       str(nnUNet_preprocessed), self.device)
        answer = self._with_setting("double_batched", Setting(host_share=share))
        return replace(answer, detail=f"A's share {share:g}, chosen on A's validation cases ({means[share]:.3f})")

    # -- stitches ----------------------------------------------------------------------------------------------------

    def _stitched_host_head(self) -> Answer:
        return self._by_rule("double_batched", "2", "host")

    def _direct(self) -> Answer:
        return self._by_rule("direct", "2", "ensemble")

    def _task(self) -> Answer:
        return self._by_rule("task", "2", "ensemble")

    def _stitched_many(self) -> Answer:
        return self._everywhere("double_batched")

    def _direct_many(self) -> Answer:
        return self._everywhere("direct")

    def _task_many(self) -> Answer:
        return self._everywhere("task")

    def _guided(self) -> Answer:
        folder, request = self._stitches("double_batched"), self.job.request
        found = {f: guide_fold(folder, self.host.dataset_name, self.host.configuration, f, self.job.trainer,
                               request.plans_name, self.device, "ensemble", request.combine, request.guided_steps,
                               request.seed, self.say) for f in self.folds}
        weights = [w for g in found.values() for pair in g.weights for w in pair]
        detail = f"mixing weights of {2 * len(self.job.positions)} switches, {min(weights):.2f} to {max(weights):.2f}"
        return Answer(folder, self.folds, {f: g.setting for f, g in found.items()}, detail)

    def _everywhere(self, fit: str) -> Answer:
        answer = self._with_setting(fit, Setting.average_at(*self.job.positions))
        return replace(answer, detail=f"{2 * len(self.job.positions)} active stitches")

    def _by_rule(self, fit: str, rule: str, output: str) -> Answer:
        folder = self._stitches(fit)
        sweeps = [Sweep.from_json(read_json(os.path.join(folder, f"fold_{f}", SWEEP_FILE))) for f in self.folds]
        settings = rule_settings(sweeps, rule, self.job.layout.progress(), output, self.job.request.combine)
        chosen = {f: min(s.switches) for f, s in settings.items()}
        names = {p: self.job.layout.position_name(p) for p in chosen.values()}
        if len(names) == 1:
            detail = "; ".join(f"position {p}, {n}" for p, n in names.items())
        else:
            detail = "positions " + ", ".join(f"{p} (fold {f})" for f, p in chosen.items())
        if rule == "3":
            detail += f", fixed at {RULE_3_PROGRESS:.0%} of the host's depth"
        return Answer(folder, self.folds, settings, detail)

    def _with_setting(self, fit: str, setting: Setting) -> Answer:
        return Answer(self._stitches(fit), self.folds, {f: setting for f in self.folds})

    def _stitches(self, fit: str) -> str:
        """The model folder of one way of fitting, trained now if it is not there. A finished one is left as it is,
        whatever position it was deployed at."""
        request = self.job.request
        plans_name = request.plans_name if fit == "double_batched" else \
            f"{request.plans_name.removesuffix('Plans')}{fit.capitalize()}Plans"
        job = replace(self.job, request=replace(request, fit=fit, plans_name=plans_name))
        if not stitches_are_trained(job):
            train_stitch(device=self.device, continue_training=True, progress=self.progress, say=self.say,
                         **vars(job.request))
        return job.model_folder

    # -- trainings of one network ------------------------------------------------------------------------------------

    def _distilled(self) -> Answer:
        return self._student(TAUGHT, weight=1.0)

    def _untaught(self) -> Answer:
        """The same start, seed, steps and data, so the same batches, without the teacher's term."""
        return self._student(UNTAUGHT, weight=0.0)

    def _student(self, plans_name: str, weight: float) -> Answer:
        teacher = self._stitches("double_batched")
        epochs, iterations = self._budget
        result = distill(teacher, self.host.dataset_name, device=self.device, continue_training=True, validate=False,
                         progress=self.progress, say=self.say, configuration=self.host.configuration, folds=self.folds,
                         weight=weight, epochs=epochs, iterations=iterations, plans_name=plans_name, seed=self.seed,
                         comparison=True)
        detail = f"{epochs} epochs from A's weights"
        if weight:
            networks = [load_teacher(read_teacher(teacher), f)[0] for f in self.folds]
            positions = sorted({p for network in networks for p in network.setting.switches})
            detail += f", taught by the stitched model as deployed, position {', '.join(map(str, positions))}"
        return Answer(result.model_folder, self.folds, detail=detail)

    def _soup(self) -> Answer:
        folder = average_weights(self.host, self.partner, self.job.partner_folds[0], SOUP,
                                 self.job.request.checkpoint_name)
        return Answer(folder, self.folds)

    def _finetuned_B_on_A(self) -> Answer:
        borrow_plans(self.partner, self.host, FINETUNED)
        starts = {f: self.partner.checkpoint_path(self.job.partner_folds[0][f]) for f in self.folds}
        return self._train(self.host.dataset_name, self.partner.trainer, FINETUNED, starts)

    def _guided_merge(self) -> Answer:
        """The one pair here that has a common start."""
        tuned = self._finetuned_B_on_A().model_folder
        folder = os.path.join(str(nnUNet_results), self.host.dataset_name,
                              f"nnUNetTrainer__{GUIDED_MERGE}__{self.host.configuration}")
        for fold in self.folds:
            if not os.path.isfile(os.path.join(folder, f"fold_{fold}", RECORD)):
                self.say(f"fold {fold}: merging B with B fine-tuned on A")
                merge_guided(MergeRequest([self.partner.path, tuned], self.host.dataset_name,
                                          self.host.configuration, fold, GUIDED_MERGE, plans_name=FINETUNED,
                                          checkpoint_name=self.job.request.checkpoint_name,
                                          steps=self.job.request.guided_steps, seed=self.seed), self.device, self.say)
        written = {f: read_json(os.path.join(folder, f"fold_{f}", RECORD))["chosen"] for f in self.folds}
        return Answer(folder, self.folds, detail="written: " + ", ".join(dict.fromkeys(written.values())))

    def _finetuned_A_on_B(self) -> Answer:
        borrow_plans(self.host, self.partner, FINETUNED)
        starts = {f: self.host.checkpoint_path(f) for f in self.folds}
        return self._train(self.partner.dataset_name, self.host.trainer, FINETUNED, starts)

    def _merged(self) -> Answer:
        dataset = merge_datasets(self.host, self.partner, MERGED)
        return self._train(dataset, self.host.trainer, MERGED, dict.fromkeys(self.folds))

    def _train(self, dataset: str, trainer: str, plans_name: str, starts: dict) -> Answer:
        for fold, start in starts.items():
            self.say(f"fold {fold}: training on {dataset}")
            train_network(dataset, self.host.configuration, fold, trainer, plans_name, self.device, start,
                          self.epochs, self.iterations, self.seed, self.progress)
        folder = os.path.dirname(fold_folder(dataset, trainer, plans_name, self.host.configuration, self.folds[0]))
        return Answer(folder, self.folds)

    def _federated(self) -> Answer:
        from nnunetv2_stitch.baselines.federated import FederatedParty, federated_averaging
        borrow_plans(self.host, self.host, FEDERATED)
        borrow_plans(self.host, self.partner, FEDERATED)
        epochs, iterations = self._budget
        folder = os.path.join(str(nnUNet_results), self.host.dataset_name,
                              f"nnUNetTrainerFedAvg__{FEDERATED}__{self.host.configuration}")
        parties = [FederatedParty(name, party.dataset_name, FEDERATED)
                   for name, party in (("A", self.host), ("B", self.partner))]
        for fold in self.folds:
            if not os.path.isfile(os.path.join(folder, f"fold_{fold}", "checkpoint_final.pth")):
                self.say(f"fold {fold}: {epochs} rounds of federated averaging")
                federated_averaging(parties, self.host.configuration, fold, folder, rounds=epochs,
                                    iterations=iterations, seed=self.seed, device=self.device.type, resume=True,
                                    say=self.say)
        return Answer(folder, self.folds, detail=f"{epochs} rounds, one epoch of each party per round")

    @cached_property
    def _budget(self) -> tuple[int, int]:
        epochs, iterations = budget(self.host.trainer, self.host.plans, self.host.configuration,
                                    self.host.dataset_json)
        return self.epochs or epochs, self.iterations or iterations

