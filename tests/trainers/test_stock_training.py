"""Stock nnUNetv2_train with our trainer, as nnUNet_extTrainer makes it known."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file
from stitched_model import FOLDER, SHORT, call, console_script, python_path, start, stitched_env, tree

from nnunetv2_stitch.fileio import write_json
from nnunetv2_stitch.stitching.network import SETTING_KEY
from nnunetv2_stitch.stitching.setting import decode_setting

pytestmark = pytest.mark.slow

TRAINER, PLANS = FOLDER.split("__")


@pytest.fixture
def world(world2d, copy_world, nnunet_env):
    """With plans for stock nnU-Net, as nnUNetv2_train_stitch writes them before it trains."""
    from nnunetv2_stitch.pipeline import Request, prepare
    world = nnunet_env(copy_world(world2d))
    job = prepare(Request(world.host.dataset_id, world.partner.dataset_id, positions=SHORT["positions"], epochs=3,
                          iterations=3))
    write_json(job.plans_file, job.plans)
    return world


def trainers_folder() -> str:
    """As `$(nnUNetv2_stitch_trainers)` gives it."""
    script = "from nnunetv2_stitch.entrypoints.stitch_trainers import *; stitch_trainers_entry()"
    return subprocess.run([sys.executable, "-c", script], check=True, text=True, stdout=subprocess.PIPE,
                          env={**os.environ, "PYTHONPATH": python_path()}).stdout.strip()


def command(world, fold=0):
    return "nnUNetv2_train", str(world.host.dataset_id), "2d", str(fold), "-tr", TRAINER, "-p", PLANS, "-device", "cpu"


def test_train_continue_and_validate(world):
    parents = tree(world.model(world.host), world.model(world.partner))
    env = {**stitched_env(world), "nnUNet_extTrainer": trainers_folder()}
    fold = world.results / world.host.dataset / f"{FOLDER}__2d" / "fold_0"

    running = start(*command(world), env=env)
    while not (fold / "checkpoint_best.pth").exists():
        assert running.process.is_alive(), running.output[-3000:]
        time.sleep(0.005)
    os.kill(running.process.pid, signal.SIGKILL)
    running.wait()
    assert not (fold / "sweep.json").exists(), "too late to interrupt anything"
    call(*command(world), "--c", env=env)

    sweep = json.loads((fold / "sweep.json").read_text())
    best = sweep["positions"][sweep["ensemble"].index(max(sweep["ensemble"]))]
    checkpoint = torch.load(fold / "checkpoint_final.pth", weights_only=True)
    assert list(decode_setting(checkpoint["network_weights"][SETTING_KEY]).switches) == [best]
    assert checkpoint["trainer_name"] == "nnUNetTrainer" and checkpoint["stitch_trainer_name"] == TRAINER
    assert len(checkpoint["logging"]["train_losses"]) == 3
    assert (fold / "progress.png").stat().st_size and (fold.parent / "matches.png").stat().st_size
    logs = "".join(p.read_text() for p in sorted(fold.glob("training_log_*.txt")))
    assert "nnunetv2-stitch: seed 12345" in logs and logs.count("Epoch 0") == 1 and "Epoch 2" in logs
    assert "leaves" in logs and "direct matching" in logs
    stitches = load_file(fold / "stitches_all.safetensors")
    assert {int(k.split(".")[1]) for k in stitches} == set(SHORT["positions"])
    summary = json.loads((fold / "validation" / "summary.json").read_text())
    wanted = tree(fold / "validation")
    assert summary["foreground_mean"]["Dice"] == pytest.approx(max(sweep["ensemble"]), abs=0.05)

    for path in (fold / "validation").iterdir():
        path.unlink()
    kept = (fold / "checkpoint_final.pth").read_bytes()
    output = console_script(*command(world), "--val", world=world, nnUNet_extTrainer=env["nnUNet_extTrainer"])
    assert "Validation complete" in output
    again = tree(fold / "validation")
    assert {k: v for k, v in again.items() if k.endswith(".nii.gz")} == {
        k: v for k, v in wanted.items() if k.endswith(".nii.gz")}
    assert len(again) >= 6 and kept == (fold / "checkpoint_final.pth").read_bytes()
    assert tree(world.model(world.host), world.model(world.partner)) == parents


def test_plans_of_another_kind_are_refused_with_the_next_step(world):
    env = {**stitched_env(world), "nnUNet_extTrainer": trainers_folder()}
    output = call("nnUNetv2_train", str(world.host.dataset_id), "2d", "0", "-tr", TRAINER, "-p", "nnUNetPlans",
                  "-device", "cpu", env=env, code=1)
    assert "describe no stitched ensemble for 2d; run nnUNetv2_train_stitch" in output
