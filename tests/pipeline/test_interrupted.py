"""A kill or Ctrl-C at any moment leaves a folder from which `--c` goes on."""

import json
import os
import signal
import time

import pytest
import torch
from stitched_model import ALONE, FOLDER, SHORT, call, start, stitched_env, tree

from nnunetv2_stitch.registration import trainers_folder

pytestmark = pytest.mark.slow

KEPT = "sweep.cases_0.jsonl"
ARGUMENTS = ["-device", "cpu", "-epochs", "3", "-iterations", "4", "-positions", "2,9,16,20-25,30,37,41",
             "--disable_progress_bar"]


def in_epoch_1(folder):
    """After the first checkpoint, in the middle of training."""
    return any("Epoch 1" in p.read_text() for p in (folder / "fold_0").glob("training_log_*.txt"))


def in_sweep(folder):
    """Some of the five cases are done and kept."""
    kept = folder / "fold_0" / KEPT
    return kept.exists() and kept.read_text().count('"case"') > 1


def in_second_fold(folder):
    return (folder / "fold_0" / "sweep.json").exists()


def in_deployment(folder):
    """All folds are trained and the choice is being deployed."""
    return (folder / "fold_1" / "sweep.json").exists()


def forge(kept) -> int:
    """Make the cases that are kept look like failures, so that it shows whether they are computed again."""
    text = kept.read_text()
    assert "tr_0" not in text, "no case may be named"
    lines = [json.loads(line) for line in text.splitlines() if line]
    for line in lines[1:]:
        line["dice"] = [[0.0 for _ in row] for row in line["dice"]]
    kept.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return len(lines) - 1


def require_no_answer(world, folder, env) -> None:
    """Kind: a model that is not made to its end answers, without a word, with all stitches active."""
    where = ["-i", world.test_images(world.partner), "-o", world.root / "half"]
    model = ["-d", world.host.dataset_id, "-f", 0]
    for code, command in ((2, ["nnUNetv2_predict_stitched", *where, *model, "-device", "cpu"]),
                          (2, ["nnUNetv2_distill_stitched", "-m", folder, *model, "-device", "cpu", "--dry_run"]),
                          (1, ["nnUNetv2_predict", *where, *model, "-tr", "nnUNetTrainerStitch", "-p",
                               "nnUNetStitchPlans", "-c", "2d", *ALONE])):
        said = call(*command, env={**env, "nnUNet_extTrainer": str(trainers_folder())}, code=code)
        assert "of a training that has not ended: no position is chosen and deployed yet" in said
        assert code == 1 or said.count("\n") == 1, said
    assert not list((world.root / "half").glob("*.nii.gz"))


MOMENTS = [(in_epoch_1, signal.SIGINT), (in_sweep, signal.SIGKILL), (in_second_fold, signal.SIGKILL),
           (in_deployment, signal.SIGKILL)]


@pytest.mark.parametrize(("moment", "kind"), MOMENTS, ids=lambda v: getattr(v, "__name__", None) or v.name)
def test_going_on_after_an_interruption(moment, kind, world2d, copy_world):
    world = copy_world(world2d)
    env = {**stitched_env(world), "nnUNet_extTrainer": world.env["nnUNet_extTrainer"]}
    parents = tree(world.model(world.host), world.model(world.partner))
    command = ["nnUNetv2_train_stitch", str(world.host.dataset_id), str(world.partner.dataset_id), *ARGUMENTS]
    folder = world.results / world.host.dataset / f"{FOLDER}__2d"

    running = start(*command, env=env)
    deadline = time.time() + 600
    while not moment(folder):
        assert running.process.is_alive() and time.time() < deadline, running.output[-3000:]
        time.sleep(0.002)
    os.kill(running.process.pid, kind)
    code = running.wait()
    output = running.output
    if kind == signal.SIGINT:
        assert code == 130
        assert output.splitlines()[-1] == "interrupted; the same command with --c goes on"
    else:
        assert code == -signal.SIGKILL
    assert not (folder / "stitch_selection.json").exists(), "too late to interrupt anything"

    if moment is in_second_fold:
        require_no_answer(world, folder, env)
    forged = forge(folder / "fold_0" / KEPT) if moment is in_sweep else 0
    call(*command, env=env, code=2)  # without --c nothing is overwritten
    output = call(*command, "--c", env=env)
    assert "Predict with" in output and "Chosen position" in output
    for fold in (0, 1):
        checkpoint = torch.load(folder / f"fold_{fold}" / "checkpoint_final.pth", weights_only=True)
        assert len(checkpoint["logging"]["train_losses"]) == 3 and checkpoint["trainer_name"] == "nnUNetTrainer"
        assert (folder / f"fold_{fold}" / "validation" / "summary.json").is_file()
    if moment is in_epoch_1:
        logs = "".join(p.read_text() for p in sorted((folder / "fold_0").glob("training_log_*.txt")))
        assert logs.count("Epoch 0") == 1, "what was trained before the interruption was thrown away"
    if moment is in_sweep:
        assert f"{forged} of 5 cases are done" in output and not list(folder.rglob("*.jsonl"))
        host = [json.loads((folder / f"fold_{f}" / "sweep.json").read_text())["baselines"]["host"] for f in (0, 1)]
        assert host[0] == pytest.approx(0.92 * (5 - forged) / 5, abs=0.04) and host[1] > 0.85
    if moment in (in_second_fold, in_deployment):
        assert "fold 0: stitches are trained" in output
    assert tree(world.model(world.host), world.model(world.partner)) == parents


def test_a_kill_while_a_finished_model_is_deployed_anew(stitched2d, copy_world):
    """Between the rewriting of one fold's checkpoint and the next: nothing that is there may be lost."""
    world = copy_world(stitched2d.world)
    env = stitched_env(world)
    folder = world.results / stitched2d.folder.relative_to(stitched2d.world.results)
    command = ["nnUNetv2_train_stitch", str(world.host.dataset_id), str(world.partner.dataset_id), "-device", "cpu",
               "--c", "-position", str(SHORT["positions"][0])]
    final = folder / "fold_0" / "checkpoint_final.pth"
    before = final.stat().st_mtime_ns
    running = start(*command, env=env)
    while final.stat().st_mtime_ns == before:
        assert running.process.is_alive(), running.output[-3000:]
        time.sleep(0.001)
    os.kill(running.process.pid, signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    for path in folder.rglob("checkpoint_*.pth"):
        if not path.name.startswith("."):
            torch.load(path, weights_only=True)
    output = call(*command, env=env)
    assert f"Chosen position: {SHORT['positions'][0]}," in output
