"""Federated averaging, compared with trainings by stock nnU-Net and means taken by hand."""

import json
import multiprocessing
import os
import shutil
import sys
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import world as worlds

from nnunetv2_stitch.baselines.federated import (
    FederatedParty,
    averaged,
    federated_averaging,
    federated_folder,
)
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.federation.local import LocalTrainer
from nnunetv2_stitch.federation.sharing import set_shared, shared_arrays
from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.parties.checkpoint import load_checkpoint
from nnunetv2_stitch.parties.model_folder import read_model_folder
from nnunetv2_stitch.randomness import random_state, seed_everything, set_random_state

ROUNDS, ITERATIONS, SEED = 3, 3, 7
CASES = {"A": 5, "B": 2}
# Repeated trainings differ in the last digits where threads share sums otherwise.
SAME = {"rtol": 0, "atol": 1e-4}
# Of this training as Flower's processes ran it, when each party still had a process of its own.
LOSSES_BEFORE = [{"A": 1.19107, "B": 1.16581}, {"A": 1.05096, "B": 0.99649}, {"A": 0.90885, "B": 0.88909}]


@dataclass
class Federation:
    """A world in which B has fewer training cases."""

    world: worlds.World

    @property
    def parties(self):
        return [FederatedParty(name, party.dataset, worlds.PLANS) for name, party in zip(CASES, self.world.parties)]

    def folder(self, name):
        """Model folders beside each other, named as nnU-Net names them."""
        return federated_folder(self.parties[0], self.world.configuration).replace("FedAvg", name)

    def run(self, name, say=lambda line: None, **changes):
        arguments = {"rounds": ROUNDS, "iterations": ITERATIONS, "seed": SEED, **changes}
        federated_averaging(self.parties, self.world.configuration, 0, self.folder(name), say=say, **arguments)


@pytest.fixture(scope="module")
def federation(world2d, tmp_path_factory):
    world = worlds.World(Path(shutil.copytree(world2d.root, tmp_path_factory.mktemp("federated") / "world")), 2)
    splits = world.preprocessed / world.partner.dataset / "splits_final.json"
    folds = json.loads(splits.read_text())
    splits.write_text(json.dumps([{**f, "train": f["train"][:CASES["B"]]} for f in folds]))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in world.env.items():
            patch.setenv(name, value)
        patch.setitem(sys.modules, "flwr", None)  # as where Flower is not installed
        yield Federation(world)


@pytest.fixture(scope="module")
def finished(federation):
    """An uninterrupted training: its lines."""
    lines = []
    federation.run("FedAvg", say=lines.append)
    return lines


def checkpoint_of(federation, name):
    return load_checkpoint(os.path.join(federation.folder(name), "fold_0", "checkpoint_final.pth"))


class StockParty:
    """nnU-Net's trainer on a party's data with the host's plans, in turns with others."""

    def __init__(self, federation, index, folder):
        from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
        host, party = federation.parties[0], federation.parties[index]
        preprocessed = federation.world.preprocessed
        plans = deepcopy(read_json(str(preprocessed / host.dataset / f"{worlds.PLANS}.json")))
        plans |= {"dataset_name": party.dataset, "continue_training": False}
        seed_everything(SEED)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("nnUNet_results", str(folder))
            self.trainer = nnUNetTrainer(plans, "2d", 0, read_json(str(preprocessed / party.dataset / "dataset.json")),
                                         torch.device("cpu"))
        self.trainer.num_epochs, self.trainer.num_iterations_per_epoch = ROUNDS, ITERATIONS
        self.trainer.initialize()
        seed_everything(SEED + 1 + index)
        self.trainer.on_train_start()
        self.random = random_state()

    def epoch(self, weights):
        """nnU-Net's hooks for training, from the common weights on; the mean loss."""
        set_random_state(self.random)
        set_shared(self.trainer.network, weights, "")
        self.trainer.on_train_epoch_start()
        steps = [self.trainer.train_step(next(self.trainer.dataloader_train)) for _ in range(ITERATIONS)]
        self.trainer.current_epoch += 1
        self.random = random_state()
        return np.mean([s["loss"] for s in steps])


@pytest.mark.slow
def test_each_round_is_the_mean_of_stock_trainings_by_cases(federation, finished, tmp_path):
    before = random_state()
    parties = [StockParty(federation, index, tmp_path / str(index)) for index in range(2)]
    weights = shared_arrays(parties[0].trainer.network)
    for entry in json.loads(Path(federation.folder("FedAvg"), "fold_0", "federated.json").read_text())["rounds"]:
        for name, party in zip(CASES, parties):
            np.testing.assert_allclose(entry["losses"][name], [party.epoch(weights)], **SAME)
        local = [shared_arrays(party.trainer.network) for party in parties]
        weights = {n: ((5 * local[0][n].astype(float) + 2 * local[1][n]) / 7).astype(np.float32) for n in weights}
    set_random_state(before)
    result = checkpoint_of(federation, "FedAvg")["network_weights"]
    for name, value in weights.items():
        np.testing.assert_allclose(result[name].numpy(), value, err_msg=name, **SAME)
    plain = max(np.abs(result[n].numpy() - (a + local[1][n]) / 2).max() for n, a in local[0].items())
    assert plain > 10 * SAME["atol"], "a mean without weights would have passed too"


def test_a_mean_is_weighted_and_of_the_weights_precision():
    parts = [{"a": np.full((2, 2), value, np.float32), "b": np.float32(value).reshape(())} for value in (1, 2, 4)]
    mean = averaged(parts, [1, 2, 1])
    assert mean["a"].dtype == mean["b"].dtype == np.float32 and mean["b"].shape == ()
    np.testing.assert_allclose(mean["a"], np.full((2, 2), 2.25))


@pytest.mark.slow
def test_the_rows_figures_stay_what_they_were(federation, finished):
    record = json.loads(Path(federation.folder("FedAvg"), "fold_0", "federated.json").read_text())
    for entry, before in zip(record["rounds"], LOSSES_BEFORE, strict=True):
        assert {name: losses[0] for name, losses in entry["losses"].items()} == pytest.approx(before, abs=2e-3)


@pytest.mark.slow
def test_the_result_is_an_ordinary_model_folder(federation, finished):
    folder = federation.folder("FedAvg")
    model = read_model_folder(folder)
    assert model.folds == (0,) and model.dataset_name == federation.world.host.dataset
    checkpoint = checkpoint_of(federation, "FedAvg")
    assert checkpoint["trainer_name"] == "nnUNetTrainer" and checkpoint["current_epoch"] == ROUNDS
    assert checkpoint["init_args"]["plans"]["dataset_name"] == federation.world.host.dataset
    for name in ("plans.json", "dataset.json", "dataset_fingerprint.json"):
        assert os.path.isfile(os.path.join(folder, name))
    assert Path(folder, "fold_0", "progress.png").read_bytes()[:4] == b"\x89PNG"

    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False, use_mirroring=False)
    predictor.initialize_from_trained_model_folder(folder, use_folds=(0,))
    image = np.random.default_rng(0).normal(size=(1, 1, 64, 64)).astype(np.float32)
    labels = predictor.predict_single_npy_array(image, {"spacing": [999.0, 1.0, 1.0]})
    assert labels.shape == (1, 64, 64) and set(np.unique(labels)) <= {0, 1, 2}


@pytest.mark.slow
def test_what_is_recorded_and_what_is_left(federation, finished):
    record = json.loads(Path(federation.folder("FedAvg"), "fold_0", "federated.json").read_text())
    assert record["cases"] == CASES and record["shares"] == {"A": 5 / 7, "B": 2 / 7}
    assert [entry["round"] for entry in record["rounds"]] == [1, 2, 3]
    assert record["settings"]["seed"] == SEED and set(record["versions"]) >= {"nnunetv2", "torch"}
    rounds = [line for line in finished if line.startswith("round")]
    assert [line.split(":")[0] for line in rounds] == ["round 1/3", "round 2/3", "round 3/3"]
    work = Path(federation.folder("FedAvg"), "fold_0", "federated")
    assert not list(work.rglob("*.safetensors")) and not list(work.rglob("*.pth"))
    assert len(list(work.rglob("training_log*.txt"))) == len(CASES)
    assert not list(Path(federation.folder("FedAvg")).glob(".fold_*"))  # no lock


@pytest.mark.slow
def test_a_finished_training_is_left_alone(federation, finished, monkeypatch):
    lines = []
    with monkeypatch.context() as patch:
        patch.delattr(LocalTrainer, "__init__")
        federation.run("FedAvg", resume=True, say=lines.append)
    assert "is finished" in lines[-1]
    with pytest.raises(StitchError, match="is not empty; resume=True"):
        federation.run("FedAvg")
    with pytest.raises(StitchError, match="made with other rounds: 3, not 4"):
        federation.run("FedAvg", resume=True, rounds=4)


@pytest.mark.slow
def test_a_training_that_was_interrupted_goes_on_to_the_same_result(federation, finished, monkeypatch):
    """In the middle of a round: A has trained in it, B has not."""
    train = LocalTrainer.train

    def interrupted(self, number, weights):
        if (self.name, number) == ("B", 2):
            raise KeyboardInterrupt
        return train(self, number, weights)

    with monkeypatch.context() as patch:
        patch.setattr(LocalTrainer, "train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            federation.run("Stopped")
    assert not os.path.exists(os.path.join(federation.folder("Stopped"), "fold_0", "checkpoint_final.pth"))
    with pytest.raises(StitchError, match="made with other seed"):
        federation.run("Stopped", resume=True, seed=SEED + 1)
    lines = []
    federation.run("Stopped", resume=True, say=lines.append)
    assert lines[0] == "going on after round 1 of 3"
    assert [line.split(":")[0] for line in lines if line.startswith("round")] == ["round 2/3", "round 3/3"]
    once, twice = (checkpoint_of(federation, name) for name in ("FedAvg", "Stopped"))
    for name, value in once["network_weights"].items():
        np.testing.assert_allclose(twice["network_weights"][name].numpy(), value.numpy(), err_msg=name, **SAME)
    assert len(twice["logging"]["train_losses"]) == ROUNDS
    np.testing.assert_allclose(twice["logging"]["lrs"], once["logging"]["lrs"])


@pytest.mark.slow
def test_processes_for_augmentation_end_with_the_training(federation, monkeypatch):
    monkeypatch.delenv("nnUNet_n_proc_DA")
    workers = []

    def seen(line):
        if line.startswith("round"):
            workers.extend(multiprocessing.active_children())

    federation.run("Workers", say=seen, rounds=1, iterations=1)
    assert workers and not [p for p in workers if p.is_alive()]
