"""nnUNetv2_train_stitch as one of several processes: killed, gone on with, and what a bad call says."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from nnunetv2.run.run_training import find_free_network_port
from safetensors.torch import load_file
from stitched_model import FOLDER, start, stitch, stitched_env

pytestmark = pytest.mark.slow

SIZE = 2
STOPPED = "stopped: another process of this job has ended; the same command with --c goes on"


def launch(*arguments: str, env: dict[str, str], size: int = SIZE) -> list:
    """As torchrun or a batch system does, in processes that need not import everything anew."""
    places = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": "localhost",
              "MASTER_PORT": find_free_network_port()}
    return [start(*arguments, env={**env, **{k: str(v) for k, v in places.items()}, "RANK": str(rank),
                                   "LOCAL_RANK": str(rank)}) for rank in range(size)]


def kill_in(moment, running, victim: int) -> None:
    deadline = time.time() + 120
    while not moment():
        assert all(r.process.is_alive() for r in running) and time.time() < deadline, running[0].output[-3000:]
        time.sleep(0.005)
    os.kill(running[victim].process.pid, signal.SIGKILL)
    assert running[victim].wait() == -signal.SIGKILL
    other, = (r for r in running if r is not running[victim])
    assert other.wait() == 1, other.output[-3000:]
    assert other.output.splitlines()[-1] == STOPPED and "Traceback" not in other.output


def test_a_killed_process_ends_the_job_and_torchrun_goes_on(world2d, copy_world, nnunet_env, thread_pools):
    world = nnunet_env(copy_world(world2d))
    env = stitched_env(world)
    command = ["nnUNetv2_train_stitch", str(world.host.dataset_id), str(world.partner.dataset_id), "-device", "cpu",
               "-f", "0", "-epochs", "3", "-iterations", "4", "-positions", "2,20,41", "--disable_progress_bar"]
    folder = world.results / world.host.dataset / f"{FOLDER}__2d"
    fold = folder / "fold_0"

    def epoch(number: int):
        return lambda: any(f"Epoch {number}" in p.read_text() for p in fold.glob("training_log_*.txt"))

    kill_in(epoch(1), launch(*command, env=env), victim=1)
    kill_in(epoch(2), launch(*command, "--c", env=env), victim=0)
    left = [p for p in folder.rglob("*") if p.name.startswith(".tmp")]
    assert not left and (fold / "checkpoint_best.pth").is_file() and not (fold / "sweep.json").exists()
    torch.load(fold / "checkpoint_best.pth", weights_only=False)

    module = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(SIZE)]
    script = str(Path(__file__).parents[1] / "run_entry.py")
    done = subprocess.run([*module, script, *command, "--c"], env={**os.environ, **env, "OMP_NUM_THREADS": "1"},
                          text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
    assert done.returncode == 0, done.stdout[-4000:]
    assert done.stdout.count("Predict with") == 1, "only the first process speaks"
    assert done.stdout.count("fold 0: validation with") == 1 and "Traceback" not in done.stdout
    logs = "".join(p.read_text() for p in sorted(fold.glob("training_log_*.txt")))
    assert logs.count("Epoch 0") == 1, "what was trained before was thrown away"
    assert not list(folder.rglob("*.lock")) + list(folder.rglob("*.jsonl")) + list(folder.rglob(".tmp*"))
    cases = json.loads((world.preprocessed / world.host.dataset / "splits_final.json").read_text())[0]["val"]
    summary = json.loads((fold / "validation" / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == len(cases) == 5

    together = json.loads((fold / "sweep.json").read_text())
    (fold / "sweep.json").unlink()
    stitch(world, folds=[0], epochs=3, iterations=4, positions=[2, 20, 41], continue_training=True)
    alone = json.loads((fold / "sweep.json").read_text())
    for key in ("ensemble", "host_head", "partner_head"):
        assert together[key] == pytest.approx(alone[key], abs=1e-3)  # voxels at ties, by the threads
    assert together["baselines"] == pytest.approx(alone["baselines"], abs=1e-3)
    assert {k: together[k] for k in ("cases", "names", "r2")} == {k: alone[k] for k in ("cases", "names", "r2")}


def test_stitches_whose_turn_it_is_not_rest_in_every_process(world2d, copy_world, nnunet_env):
    """Of two steps the first trains position 2, the second position 20, and no step position 41."""
    world = nnunet_env(copy_world(world2d))
    made = {}
    for fit in (["-fit", "direct"], ["-positions_per_pass", "1"]):
        plans = f"nnUNetTurns{len(made)}Plans"
        command = ["nnUNetv2_train_stitch", str(world.host.dataset_id), str(world.partner.dataset_id), "-device", "cpu",
                   "-f", "0", "-epochs", "1", "-iterations", "2", "-positions", "2,20,41", "-o_p", plans, *fit]
        running = launch(*command, "--disable_progress_bar", env=stitched_env(world))
        assert [r.wait() for r in running] == [0] * SIZE, running[0].output[-3000:]
        fold, = (world.results / world.host.dataset).glob(f"*__{plans}__*/fold_0")
        made[fit[0]] = load_file(fold / "stitches_all.safetensors")
    direct, trained = made.values()
    changed = {int(name.split(".")[1]) for name, value in trained.items() if not torch.equal(value, direct[name])}
    assert len(direct) == len(trained) and changed == {2, 20}


def test_a_bad_call_is_one_line_and_the_same_code_everywhere(world2d):
    env = stitched_env(world2d)
    command = ["nnUNetv2_train_stitch", "-device", "cpu", str(world2d.host.dataset_id)]
    partner = str(world2d.partner.dataset_id)
    for bad, size, said in ((["899"], 2, "899"), ([partner, "-rule", "guided"], 2, "--select"),
                            ([partner], 5, "a batch of 4 cannot be shared out over 5 processes"),
                            ([partner, "-rule", "9"], 2, "invalid choice")):
        first, *others = running = launch(*command, *bad, env=env, size=size)
        assert [r.wait() for r in running] == [2] * size, [r.output for r in running]
        assert said in first.output.splitlines()[-1] and not any(r.output for r in others)
        assert "Traceback" not in first.output and (bad[-1] == "9" or len(first.output.splitlines()) == 1)
        assert not list((world2d.results / world2d.host.dataset).glob("nnUNetTrainerStitch*"))
