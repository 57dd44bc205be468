"""Guided merging in rounds with real processes of Flower on the loopback device: one party sleeps, one dies."""

import json
import os
import signal
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import world as worlds
from left_over import left_over

from nnunetv2_stitch.baselines.federated import FederatedParty
from nnunetv2_stitch.baselines.federated.processes import Processes
from nnunetv2_stitch.environment import usable_cores
from nnunetv2_stitch.merging.flower import guided_merging_rounds, guided_rounds_folder
from nnunetv2_stitch.parties.checkpoint import load_checkpoint

ROUNDS = 3
DEADLINE = 10 * min(6.0, max(1.0, os.getloadavg()[0] / usable_cores()))  # s; a busy machine needs longer
PARTIES = {"A": 0, "B": 1, "C": 0}  # whose data: C has A's


@pytest.mark.slow
@pytest.mark.skipif(find_spec("flwr") is None, reason="Flower (flwr) is not installed; it needs Python 3.11 or newer")
def test_one_sleeps_and_one_dies_and_nobody_waits(world2d, copy_world, nnunet_env, monkeypatch):
    world, groups, lines, killed = nnunet_env(copy_world(world2d)), {}, [], []
    start = Processes.start

    def recorded(self, name, command, env):
        start(self, name, command, env)
        groups[name] = self.running[name].pid

    def say(line):
        lines.append(line)
        if line == "starting Flower":
            os.kill(groups["trainer_B"], signal.SIGSTOP)
        if "written is" in line and not killed:
            killed.append("C")
            os.kill(groups["trainer_C"], signal.SIGKILL)
            os.kill(groups["trainer_B"], signal.SIGCONT)

    monkeypatch.setattr(Processes, "start", recorded)
    parties = [FederatedParty(name, (world.host, world.partner)[whose].dataset, worlds.PLANS)
               for name, whose in PARTIES.items()]
    folder = Path(guided_rounds_folder(parties[0], "2d"))
    guided_merging_rounds(parties, "2d", 0, str(folder), ROUNDS, DEADLINE, iterations=2, steps=2, granularity="model",
                          start=str(world.model(world.host) / "fold_0" / "checkpoint_final.pth"), say=say)
    print("\n".join(lines))
    assert not left_over(groups.values())

    entries = json.loads((folder / "fold_0" / "guided_rounds.json").read_text())["rounds"]
    assert [e["round"] for e in entries] == list(range(1, ROUNDS + 1))
    assert round(DEADLINE, 1) <= entries[0]["waited"] and all(e["waited"] < 2 * DEADLINE for e in entries)
    without = next(e for e in entries if e["merge"])  # of A and C, in the first round as a rule
    assert [m["party"] for m in without["models"]] == ["A", "C"] and len(without["waiting_for"]) == 1
    assert any("process trainer_C ended (killed by SIGKILL); the others go on" in line for line in lines)
    late = next(e for e in entries if "B" in e["answered"])
    assert "B" in late["late"] and late["round"] > without["round"]
    assert late["merge"]["coefficients"].keys() == {"A", "B", "C"}  # with the last model that C sent
    assert {m["party"]: m["age"] for m in entries[-1]["models"]}["C"] >= ROUNDS - without["round"]

    checkpoint = load_checkpoint(str(folder / "fold_0" / "checkpoint_final.pth"))
    assert checkpoint["trainer_name"] == "nnUNetTrainer"
    assert {p.name for p in (folder / "fold_0").iterdir()} == {"checkpoint_final.pth", "guided_rounds.json",
                                                               "progress.png", "federated"}
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False, use_mirroring=False)
    predictor.initialize_from_trained_model_folder(str(folder), use_folds=(0,))
    image = np.random.default_rng(0).normal(size=(1, 1, 64, 64)).astype(np.float32)
    assert predictor.predict_single_npy_array(image, {"spacing": [999.0, 1.0, 1.0]}).shape == (1, 64, 64)
