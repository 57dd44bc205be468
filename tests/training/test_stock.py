"""Trainings that start from a finished model, and one that was interrupted."""

import os
from pathlib import Path

import pytest
import torch
import world as worlds
from nnunetv2.utilities.file_path_utilities import get_output_folder

from nnunetv2_stitch.baselines.datasets import borrow_plans
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.parties.checkpoint import load_checkpoint
from nnunetv2_stitch.parties.model_folder import read_model_folder
from nnunetv2_stitch.training.stock import budget, train_network, usable_checkpoints

PLANS = "nnUNetFinetunedPlans"


@pytest.fixture
def parties(world2d, copy_world, nnunet_env, thread_pools):
    world = nnunet_env(copy_world(world2d))
    host, partner = (read_model_folder(str(world.model(p))) for p in (world.host, world.partner))
    borrow_plans(partner, host, PLANS)
    return world, host, partner


def train(host, start=None, **arguments):
    arguments = {"epochs": 1, "iterations": 2, **arguments}
    train_network(host.dataset_name, "2d", 0, worlds.TRAINER, PLANS, torch.device("cpu"), start, **arguments)
    return get_output_folder(host.dataset_name, worlds.TRAINER, PLANS, "2d", 0)


def weights(folder, name="checkpoint_final.pth") -> dict:
    return load_checkpoint(os.path.join(folder, name))["network_weights"]


@pytest.mark.slow
def test_fine_tuning_starts_from_all_weights_of_the_model(parties, monkeypatch):
    _, host, partner = parties
    start = partner.checkpoint_path(0)
    before = weights(os.path.dirname(start))
    # Without steps the result is what it began with, heads included.
    monkeypatch.setattr("nnunetv2.training.nnUNetTrainer.nnUNetTrainer.nnUNetTrainer.train_step",
                        lambda self, batch: {"loss": torch.zeros(()).numpy()})
    folder = train(host, start)
    after = weights(folder)
    assert all((after[k] == before[k]).all() for k in before)


@pytest.mark.slow
def test_same_seed_same_weights_and_a_finished_one_is_left_alone(parties):
    _, host, partner = parties
    start = partner.checkpoint_path(0)
    folder = Path(train(host, start, seed=1))
    first = weights(folder)
    stamp = (folder / "checkpoint_final.pth").stat().st_mtime_ns
    train(host, start, seed=1)
    assert (folder / "checkpoint_final.pth").stat().st_mtime_ns == stamp
    (folder / "checkpoint_final.pth").unlink()
    (folder / "checkpoint_best.pth").unlink()
    second = weights(train(host, start, seed=1))
    assert all((first[k] == second[k]).all() for k in first)
    begun = weights(os.path.dirname(start))
    assert any((first[k] != begun[k]).any() for k in begun)


@pytest.mark.slow
def test_interrupted_training_goes_on_and_a_broken_checkpoint_is_forgotten(parties, monkeypatch):
    _, host, partner = parties
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    start = partner.checkpoint_path(0)
    original, epochs = nnUNetTrainer.on_epoch_end, []

    def interrupted(self):
        original(self)
        epochs.append(self.current_epoch)
        if len(epochs) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(nnUNetTrainer, "on_epoch_end", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(host, start, epochs=4)
    folder = Path(get_output_folder(host.dataset_name, worlds.TRAINER, PLANS, "2d", 0))
    reached = load_checkpoint(str(folder / "checkpoint_best.pth"))["current_epoch"]
    assert 1 <= reached <= 2
    (folder / "checkpoint_latest.pth").write_bytes(b"PK\x03\x04 cut short")
    train(host, start, epochs=4)
    assert not (folder / "checkpoint_latest.pth").exists()
    final = load_checkpoint(str(folder / "checkpoint_final.pth"))
    assert final["current_epoch"] == 4 and epochs[2] == reached + 1


@pytest.mark.slow
def test_weights_of_another_network_are_refused(parties):
    _, host, _ = parties
    with pytest.raises(StitchError, match="tensor .* is of shape"):
        train(host, host.checkpoint_path(0))


def test_broken_checkpoints_are_removed(tmp_path):
    torch.save({"epoch": 1}, tmp_path / "checkpoint_best.pth")
    (tmp_path / "checkpoint_final.pth").write_bytes((tmp_path / "checkpoint_best.pth").read_bytes()[:100])
    assert usable_checkpoints(str(tmp_path)) == ["checkpoint_best.pth"]
    assert os.listdir(tmp_path) == ["checkpoint_best.pth"]


def test_budget_leaves_no_trace(parties):
    world, host, _ = parties
    before = sorted(world.results.rglob("*"))
    epochs, iterations = budget(worlds.TRAINER, host.plans, "2d", host.dataset_json)
    trained = load_checkpoint(host.checkpoint_path(0))["current_epoch"]
    assert (epochs, iterations > 0) == (trained, True)
    assert sorted(world.results.rglob("*")) == before
