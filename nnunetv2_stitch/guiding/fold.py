"""Guided stitching of one trained fold: the search for mixing weights, kept beside the stitches it was made for."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import torch
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.run.run_training import maybe_load_checkpoint
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_stitch.devices import trainer_for
from nnunetv2_stitch.environment import environment_set, our_trainers_known
from nnunetv2_stitch.fileio import read_json, write_json
from nnunetv2_stitch.fitting.closed_form import all_average
from nnunetv2_stitch.guiding.mixing import MixingObjective, present_weights
from nnunetv2_stitch.parties.checkpoint import sha256
from nnunetv2_stitch.parties.datasets import data_digest
from nnunetv2_stitch.randomness import seed_everything
from nnunetv2_stitch.search.coefficients import SearchOptions, search
from nnunetv2_stitch.selection.scoring import SettingScorer
from nnunetv2_stitch.stitching.setting import Setting
from nnunetv2_stitch.stitching.supernet import STITCHES_FILE

GUIDED_FILE = "guided_mixing.json"


@dataclass(frozen=True)
class Guided:
    """Mixing weights of one fold, `(host, partner)` by position, and how they were found. `score` and `start_score`
    are mean foreground Dice on the fold's validation cases, `step` is 0 where the start was never beaten. `made_for`
    is what the search depends on."""

    fold: int | str
    positions: list[int]
    weights: list[tuple[float, float]]
    score: float
    start_score: float
    step: int
    history: list[dict]
    made_for: Mapping

    @property
    def setting(self) -> Setting:
        return Setting.weighted(self.positions, self.weights, self.made_for["output"], self.made_for["combine"])

    @classmethod
    def from_json(cls, value: Mapping) -> Guided:
        return cls(**{**value, "weights": [tuple(w) for w in value["weights"]]})


@our_trainers_known()
def guide_fold(model_folder: str, dataset: str, configuration: str, fold: int | str, trainer: str, plans_name: str,
               device: torch.device, output: str = "ensemble", combine: str = "probabilities", steps: int = 100,
               seed: int = 12345, say: Callable[[str], None] = lambda line: None) -> Guided:
    """Search the mixing weights of all switches of a trained fold, from the average everywhere: Adam on them alone, by
    nnU-Net's own loss on the host's augmented training batches, stopped by Dice on its validation cases. Stitches and
    parents stay as they are. A search that was made before, for the same, is read.

    Args:
        model_folder: of the stitch trainer `trainer` under `plans_name`; receives `fold_X/guided_mixing.json`.
        output, combine: of the answer that is searched for, see `Setting`.
        steps: of the search, one training batch each.

    Raises:
        StitchError: parents or stitches missing or changed.
    """
    folder = os.path.join(model_folder, f"fold_{fold}")
    path = os.path.join(folder, GUIDED_FILE)
    options = SearchOptions(steps)
    made_for = {"stitches": sha256(os.path.join(folder, STITCHES_FILE)), "output": output, "combine": combine,
                "steps": steps, "rate": options.rate, "seed": seed, "data": _data(model_folder, dataset, configuration)}
    if os.path.isfile(path) and (before := Guided.from_json(read_json(path))).made_for == made_for:
        return before
    # Augmentation in this process, so that the seed decides what is drawn.
    with environment_set({"nnUNet_n_proc_DA": "0"}):
        running = trainer_for(dataset, configuration, fold, trainer, plans_name, False, device)
        maybe_load_checkpoint(running, False, True)
        seed_everything(seed)
        running.dataloader_train, _ = running.get_dataloaders()
    network = running.stitched
    scorer = SettingScorer(network, running.plans_manager, running.configuration_manager, running.dataset_json, device)
    cases = scorer.validation_cases(os.path.join(str(nnUNet_preprocessed), dataset), fold)
    like = Setting({}, output, combine)
    objective = MixingObjective(running, scorer, cases, like)
    network.apply_setting(all_average(network))
    start = present_weights(network)
    start_score = objective.score(start)
    say(f"fold {fold}: mixing weights of {start.numel()} switches; at the average everywhere {start_score:.4f}")
    found = search(objective, start, options, say=lambda line: say(f"fold {fold}: {line}"), start_score=start_score)
    guided = Guided(fold, list(network.positions), [tuple(w) for w in found.coefficients.T.tolist()], found.score,
                    start_score, found.step, found.history, made_for)
    write_json(path, asdict(guided))
    return guided


def _data(model_folder: str, dataset: str, configuration: str) -> str | None:
    plans = PlansManager(read_json(os.path.join(model_folder, "plans.json")))
    return data_digest(os.path.join(str(nnUNet_preprocessed), dataset),
                       plans.get_configuration(configuration).data_identifier)
