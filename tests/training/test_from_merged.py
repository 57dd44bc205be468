"""Training on from a merged model inside nnU-Net's loop, and what comes out: a model of nnU-Net's own."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from interrupting import interrupt_at
from nnunetv2.run.run_training import run_training

from nnunetv2_stitch.environment import our_trainers_known
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.parties.checkpoint import load_checkpoint, sha256
from nnunetv2_stitch.training import train_from_merged

pytestmark = pytest.mark.slow

NAME = "nnUNetFromMergedPlans"


@pytest.fixture
def world(world2d, copy_world, nnunet_env, thread_pools):
    return nnunet_env(copy_world(world2d))


def begin(world) -> Path:
    return world.model(world.host) / "fold_0" / "checkpoint_final.pth"


def train(world, party=None, **arguments):
    """A few steps at the partner, from the host's model."""
    arguments = {"device": "cpu", "folds": [0], "epochs": 1, "iterations": 2, "validate": False, **arguments}
    return train_from_merged(str(world.model(world.host)), (party or world.partner).dataset, **arguments)


def weights(result, name="checkpoint_final.pth") -> dict:
    return torch.load(Path(result.model_folder, "fold_0", name), weights_only=True)["network_weights"]


def test_all_weights_are_taken_and_stock_nnunet_does_the_same(world):
    start = load_checkpoint(str(begin(world)))["network_weights"]
    still = weights(train(world, rate=1e-12, plans_name="Still", iterations=1))
    heads = [k for k in start if ".seg_layers." in k]
    assert heads and still.keys() == start.keys()
    for name, value in start.items():  # a rate of nearly nothing shows where it started
        torch.testing.assert_close(still[name], value, rtol=0, atol=1e-7)

    result = train(world, validate=True, rate=1e-2)
    folder = Path(result.model_folder)
    moved = weights(result)
    assert any((moved[k] != start[k]).any() for k in heads)
    for name in ("final", "best"):
        checkpoint = torch.load(folder / "fold_0" / f"checkpoint_{name}.pth", weights_only=True)
        assert checkpoint["trainer_name"] == "nnUNetTrainer" and not checkpoint["optimizer_state"]
        assert str(world.root) not in str(checkpoint["init_args"]) and checkpoint["logging"]["lrs"] == [1e-2]
    assert "from_merged" not in (folder / "plans.json").read_text()
    record = read_json(folder / "fold_0" / "from_merged.json")
    assert record["sha256"] == sha256(str(begin(world))) and record["learning_rate"] == 1e-2
    assert (record["seed"], record["num_epochs"], record["num_iterations_per_epoch"]) == (12345, 1, 2)
    plans = read_json(world.preprocessed / world.partner.dataset / f"{NAME}.json")
    assert plans["configurations"]["2d"]["from_merged"]["model"] == os.path.join(
        world.host.dataset, world.model(world.host).name)
    assert result.validation_dice[0] == read_json(folder / "fold_0/validation/summary.json")["foreground_mean"]["Dice"]

    # The final checkpoint alone gives the same validation, and the stock command the same weights.
    shutil.rmtree(folder / "fold_0" / "validation")
    said = []
    again = train(world, validate=True, rate=1e-2, continue_training=True, say=said.append)
    assert said[0] == "fold 0: trained before" and again.validation_dice == result.validation_dice
    shutil.rmtree(folder)
    with our_trainers_known():
        run_training(world.partner.dataset, "2d", 0, "nnUNetTrainerFromMerged", NAME, device=torch.device("cpu"))
    stock = weights(result)
    assert all((stock[k] == v).all() for k, v in moved.items())


def test_going_on_after_an_interruption(world):
    fold = world.results / world.partner.dataset / f"nnUNetTrainerFromMerged__{NAME}__2d" / "fold_0"
    with interrupt_at("Epoch 1", fold.parent), pytest.raises(KeyboardInterrupt):
        train(world, epochs=3, iterations=8)
    assert (fold / "checkpoint_best.pth").is_file() and not (fold / "checkpoint_final.pth").exists()
    with pytest.raises(StitchError, match="already holds fold 0; add --c"):
        train(world, epochs=3, iterations=8)
    with pytest.raises(StitchError, match="was begun with -iterations 8"):
        train(world, epochs=3, iterations=4, continue_training=True)
    result = train_from_merged(str(world.model(world.host)), world.partner.dataset, device="cpu", validate=False,
                               continue_training=True)  # what it was begun with need not be said again
    assert result.folds == [0]
    checkpoint = torch.load(fold / "checkpoint_final.pth", weights_only=True)
    assert len(checkpoint["logging"]["train_losses"]) == 3 and result.validation_dice == {}
    logs = "".join(p.read_text() for p in sorted(fold.glob("training_log_*.txt")))
    assert logs.count("Epoch 0") == 1, "what was trained before the interruption was thrown away"


def test_a_model_that_changed_since_the_plans_were_made_is_refused_and_mirroring_is_kept(world):
    checkpoint = load_checkpoint(str(begin(world)))
    torch.save({**checkpoint, "inference_allowed_mirroring_axes": (1,)}, begin(world))
    result = train(world)
    written = torch.load(Path(result.model_folder, "fold_0", "checkpoint_final.pth"), weights_only=True)
    assert written["inference_allowed_mirroring_axes"] == (1,)
    shutil.rmtree(result.model_folder)
    torch.save({**checkpoint, "more": 1}, begin(world))
    with our_trainers_known(), pytest.raises(StitchError, match="is not the checkpoint that the plans were made for"):
        run_training(world.partner.dataset, "2d", 0, "nnUNetTrainerFromMerged", NAME, device=torch.device("cpu"))
