"""What all ablations share: two trained parents, batches of either party's training data, and Dice under any setting.

Every script is called as `python benchmarks/ablations/NAME.py DATASET_A DATASET_B [-f FOLD] [-steps N] [-seed N]` with
nnU-Net's three folders set, and prints a Markdown table. Both parties' data must be preprocessed, and their raw
datasets must have test cases with labels. Nothing is written.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw, nnUNet_results
from nnunetv2.run.run_training import get_trainer_from_args

from nnunetv2_stitch.baselines.datasets import borrow_plans
from nnunetv2_stitch.environment import environment_set, usable_cores
from nnunetv2_stitch.evaluation.tables import markdown_table
from nnunetv2_stitch.fitting.closed_form import DirectMatching, all_average
from nnunetv2_stitch.fitting.double_batched import double_batched_loss
from nnunetv2_stitch.parties.model_folder import ModelFolder
from nnunetv2_stitch.pipeline import Request, prepare
from nnunetv2_stitch.randomness import seed_everything
from nnunetv2_stitch.selection.scoring import SettingScorer
from nnunetv2_stitch.stitching.network import StitchedEnsemble
from nnunetv2_stitch.stitching.plans import load_parents, supernet_from_plans
from nnunetv2_stitch.stitching.setting import Setting

sys.path.insert(0, str(Path(__file__).parents[1]))

from labelled_cases import labelled_test_cases  # noqa: E402

SWEPT = 16  # positions that are looked at when one is chosen on validation cases


def parser(description: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("dataset_a")
    made.add_argument("dataset_b")
    made.add_argument("-c", dest="configuration", default=None)
    made.add_argument("-f", dest="fold", type=int, default=0)
    made.add_argument("-steps", type=int, default=150, help="training steps. Default: %(default)s")
    made.add_argument("-batches", type=int, default=30, help="batches of the closed-form pass. Default: %(default)s")
    made.add_argument("-seed", type=int, default=12345)
    made.add_argument("-device", default="cpu", choices=("cpu", "cuda"))
    return made


class Lab:
    """Both parents of one fold, their data, and what is done with them again and again."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.device = args, torch.device(args.device)
        torch.set_num_threads(usable_cores() if args.device == "cpu" else 1)
        self.job = self._job("all")
        self.host, self.partner = self.job.host, self.job.partner
        scorer = self._scorer(self.supernet())
        folder = os.path.join(str(nnUNet_preprocessed), self.host.dataset_name)
        self.cases = {"A, validation": scorer.validation_cases(folder, args.fold),
                      "A, test": self._test_cases(self.host), "B, test": self._test_cases(self.partner)}

    def _job(self, positions):
        args = self.args
        return prepare(Request(args.dataset_a, args.dataset_b, configuration=args.configuration, folds=[args.fold],
                               positions=positions), dry_run=True)

    def supernet(self, positions="all") -> StitchedEnsemble:
        """Both parents with their trained weights, and untrained stitches (torch's own initialisation, seeded)."""
        job = self.job if positions == "all" else self._job(positions)
        configuration = job.plans["configurations"][job.host.configuration]
        torch.manual_seed(self.args.seed)
        network = supernet_from_plans(configuration, job.host.num_input_channels, job.host.num_outputs)
        load_parents(network, configuration, self.args.fold, str(nnUNet_results))
        return network.to(self.device)

    def batches(self, party: ModelFolder, seed: int = 0) -> Iterator[torch.Tensor]:
        """Augmented training batches `(B, C, *spatial)` of a party, by nnU-Net's loader, in the host's patch size."""
        name = "nnUNetStitchLabPlans"
        seed_everything(self.args.seed + seed)
        with tempfile.TemporaryDirectory() as results, contextlib.redirect_stdout(io.StringIO()):
            path = borrow_plans(self.host, party, name)
            try:
                with environment_set({"nnUNet_results": results}):
                    trainer = get_trainer_from_args(party.dataset_name, self.host.configuration, self.args.fold,
                                                    "nnUNetTrainer", name, False, self.device)
                    trainer.enable_deep_supervision = False
                    trainer.initialize()
                    loader, _ = trainer.get_dataloaders()
            finally:
                os.remove(path)
        while True:
            yield next(loader)["data"].to(self.device)

    def direct(self, network: StitchedEnsemble, batches: Iterator[torch.Tensor],
               matching_of: Callable[[StitchedEnsemble], DirectMatching] = DirectMatching) -> None:
        """Set all stitches to their closed-form solution."""
        matching = matching_of(network)
        for _ in range(self.args.batches):
            matching.update(next(batches))
        matching.solve()

    def train(self, network: StitchedEnsemble, batches: Iterator[torch.Tensor], steps: int | None = None,
              loss: Callable = double_batched_loss, setting: Callable = all_average, rate: float = 3e-3,
              each: Callable[[int], None] = lambda step: None) -> None:
        """Double-batched training as the trainer does it, on an optimiser and a schedule of its own."""
        steps = self.args.steps if steps is None else steps
        optimizer = torch.optim.AdamW(network.stitch_parameters(), rate, weight_decay=0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (1 - step / max(1, steps)) ** 0.9)
        for step in range(steps):
            network.apply_setting(setting(network))
            optimizer.zero_grad(set_to_none=True)
            loss(network, next(batches)).backward()
            torch.nn.utils.clip_grad_norm_(network.stitch_parameters(), 12)
            optimizer.step()
            schedule.step()
            each(step + 1)

    def score(self, network: StitchedEnsemble, name: str) -> dict:
        """A row: Dice with every stitch active, and with one position, chosen on A's validation cases."""
        scorer = self._scorer(network)
        row = {"": name}
        everywhere = Setting.average_at(*network.positions)
        for party in ("A, test", "B, test"):
            row[f"everywhere: {party}"] = scorer.score(everywhere, self.cases[party])
        tried = evenly(network.positions, SWEPT)
        values = [scorer.score(Setting.average_at(p), self.cases["A, validation"]) for p in tried]
        chosen = tried[int(np.argmax(values))]
        row["position"] = chosen
        for party in ("A, test", "B, test"):
            row[f"there: {party}"] = scorer.score(Setting.average_at(chosen), self.cases[party])
        return row

    def score_setting(self, network: StitchedEnsemble, setting: Setting, name: str) -> dict:
        scorer = self._scorer(network)
        return {"": name, **{party: scorer.score(setting, cases) for party, cases in self.cases.items()}}

    def _scorer(self, network: StitchedEnsemble) -> SettingScorer:
        return SettingScorer(network, self.job.host.plans_manager, self.job.host.configuration_manager,
                             self.job.host.dataset_json, self.device)

    def _test_cases(self, party: ModelFolder) -> list:
        folder = os.path.join(str(nnUNet_raw), party.dataset_name)
        return labelled_test_cases(folder, self.host.plans_manager, self.host.configuration, self.host.dataset_json)


def evenly(positions: Sequence[int], count: int) -> list[int]:
    """`count` positions spread over the network."""
    if count >= len(positions):
        return list(positions)
    return [positions[int((i + 0.5) * len(positions) / count)] for i in range(count)]


def show(rows: Sequence[dict]) -> None:
    print(markdown_table(rows))
