"""A kill leaves an adaptation from which `--c` goes on, with what was asked for."""

import os
import signal
import time

import pytest
import torch
from adapting import NAME, final, same
from stitched_model import call, start, stitched_env

from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.training import adapted_state

pytestmark = pytest.mark.slow


def test_going_on_after_kills(world2d, copy_world, nnunet_env):
    """A kill, which no command can answer to, while it trains and while it writes the point that was chosen."""
    world = nnunet_env(copy_world(world2d))
    env = stitched_env(world)
    command = ["nnUNetv2_adapt_party", world.host.dataset_id, "-m_b", world.model(world.partner), "-device", "cpu",
               "--disable_progress_bar"]
    asked = ["-f", 0, "-epochs", 3, "-iterations", 4, "-lr", 0.01, "-alpha", 0.3]
    fold = world.results / world.host.dataset / f"nnUNetTrainerAdapted__{NAME}__2d" / "fold_0"
    result = world.results / world.host.dataset / f"nnUNetTrainer__{NAME}__2d"

    def training():
        return any("Epoch 1" in p.read_text() for p in fold.glob("training_log_*.txt"))

    for moment, more in ((training, asked), ((result / "adapt.json").exists, ["--c"])):
        running = start(*command, *more, env=env)
        deadline = time.time() + 240
        while not moment():
            assert running.process.is_alive() and time.time() < deadline, running.output[-3000:]
            time.sleep(0.001)
        os.kill(running.process.pid, signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
    assert not (result / "fold_0" / "validation" / "summary.json").exists(), "too late to interrupt anything"
    output = call(*command, "--c", env=env)
    record = read_json(str(result / "adapt.json"))
    assert "complete" not in record and "fold 0: trained before" in output
    assert (record["alpha"], record["learning_rate"], list(record["folds"])) == (0.3, 0.01, ["0"])
    assert same(final(str(result)), adapted_state(str(fold.parent), 0, record["alpha"]))
    assert len(torch.load(fold / "checkpoint_final.pth", weights_only=True)["logging"]["train_losses"]) == 3
    logs = "".join(p.read_text() for p in fold.glob("training_log_*.txt"))
    assert logs.count("Epoch 0") == 1, "what was trained before the kill was thrown away"
    assert 0 <= read_json(str(result / "fold_0" / "validation" / "summary.json"))["foreground_mean"]["Dice"] <= 1
