"""Ctrl-C leaves a folder from which `--c` goes on, with what was asked for."""

import os
import signal
import time

import pytest
import torch
from distill_steps import short, teacher_of
from stitched_model import call, start, stitched_env, tree

from nnunetv2_stitch.errors import StitchError

pytestmark = pytest.mark.slow


def test_going_on_after_an_interruption(world):
    env = stitched_env(world)
    models = tree(teacher_of(world), world.model(world.host))
    which = ["nnUNetv2_distill_stitched", "-m", teacher_of(world), "-d", world.host.dataset_id, "-device", "cpu",
             "--disable_progress_bar"]
    command = [*which, "-f", 0, "-epochs", 3, "-iterations", 4, "-unlabelled", world.test_images(world.partner)]
    folder = world.results / world.host.dataset / "nnUNetTrainerStitchDistilled__nnUNetDistilledPlans__2d" / "fold_0"
    running = start(*command, env=env)
    deadline = time.time() + 120
    while not any("Epoch 1" in p.read_text() for p in folder.glob("training_log_*.txt")):
        assert running.process.is_alive() and time.time() < deadline, running.output[-3000:]
        time.sleep(0.002)
    os.kill(running.process.pid, signal.SIGINT)
    assert running.wait() == 130
    assert running.output.splitlines()[-1] == "interrupted; the same command with --c goes on"
    assert not (folder / "checkpoint_final.pth").exists(), "too late to interrupt anything"

    output = call(*which, "--c", env=env)
    assert not folder.with_name("fold_1").exists(), "a fold that nobody asked for"
    assert "nnUNetv2_predict -i" in output
    checkpoint = torch.load(folder / "checkpoint_final.pth", weights_only=True)
    assert len(checkpoint["logging"]["train_losses"]) == 3 and checkpoint["trainer_name"] == "nnUNetTrainer"
    assert (folder / "validation" / "summary.json").is_file()
    logs = "".join(p.read_text() for p in sorted(folder.glob("training_log_*.txt")))
    assert logs.count("Epoch 0") == 1, "what was trained before the interruption was thrown away"
    assert tree(teacher_of(world), world.model(world.host)) == models


def test_going_on_otherwise_is_refused_and_other_folds_are_kept(world):
    short(world)
    before = tree(world.root)
    for arguments, said in (({"weight": 2.0}, "-weight 1.0"), ({"start": "scratch"}, "-start host"),
                            ({"seed": 1}, "-seed 12345"), ({"epochs": 7}, "-epochs 1"),
                            ({"unlabelled": str(world.test_images(world.host))}, "-unlabelled 0")):
        with pytest.raises(StitchError, match=f"was begun with {said}"):
            short(world, continue_training=True, **{"folds": [0, 1], **arguments})
    with pytest.raises(StitchError, match="already holds fold 0; add --c"):
        short(world)
    assert tree(world.root) == before
    result = short(world, folds=[1])
    final = os.path.join(result.model_folder, "fold_0", "checkpoint_final.pth")
    stamp = os.stat(final).st_mtime_ns
    said = []
    short(world, folds=[0, 1], continue_training=True, say=said.append)
    assert said == ["fold 0: trained before", "fold 1: trained before"] and os.stat(final).st_mtime_ns == stamp
