"""Federated averaging with real processes of Flower on the loopback device, compared with means taken by hand."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import world as worlds
from left_over import left_over

from nnunetv2_stitch.baselines.federated import FederatedParty, federated_averaging, federated_folder
from nnunetv2_stitch.baselines.federated.job import Job
from nnunetv2_stitch.baselines.federated.processes import Processes
from nnunetv2_stitch.baselines.federated.run import threads_for_each
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.parties.checkpoint import load_checkpoint
from nnunetv2_stitch.parties.reading import read_model_folder

needs_flower = pytest.mark.skipif(find_spec("flwr") is None,
                                  reason="Flower (flwr) is not installed; it needs Python 3.11 or newer")
ROUNDS, ITERATIONS, SEED = 2, 3, 7
CASES = {"A": 5, "B": 2}
# Repeated trainings differ in the last digits: nnU-Net times two kinds of convolution and blurs with the faster.
SAME = {"rtol": 0, "atol": 1e-4}


@dataclass
class Federation:
    """A world in which B has fewer training cases, and the process groups of every run in it by process name."""

    world: worlds.World
    groups: list[dict[str, int]] = field(default_factory=list)

    @property
    def parties(self):
        return [FederatedParty(name, party.dataset, worlds.PLANS)
                for name, party in zip(CASES, (self.world.host, self.world.partner))]

    def folder(self, name):
        """Model folders beside each other, named as nnU-Net names them."""
        return federated_folder(self.parties[0], self.world.configuration).replace("FedAvg", name)

    def run(self, name, say=lambda line: None, **changes):
        self.groups.append({})
        arguments = {"iterations": ITERATIONS, "seed": SEED, **changes}
        rounds = arguments.pop("rounds", ROUNDS)
        federated_averaging(self.parties, self.world.configuration, 0, self.folder(name), rounds, say=say, **arguments)

    def job(self, folder):
        return Job(parties=tuple(self.parties), configuration=self.world.configuration, fold=0, rounds=ROUNDS,
                   epochs_per_round=1, iterations=ITERATIONS, seed=SEED, device="cpu", threads=threads_for_each(2),
                   preprocessed=str(self.world.preprocessed), folder=str(folder), scratch=str(folder), key="00")


@pytest.fixture(scope="module")
def federation(world2d, tmp_path_factory):
    world = worlds.World(Path(shutil.copytree(world2d.root, tmp_path_factory.mktemp("federated") / "world")), 2)
    splits = world.preprocessed / world.partner.dataset / "splits_final.json"
    folds = json.loads(splits.read_text())
    splits.write_text(json.dumps([{**f, "train": f["train"][:CASES["B"]]} for f in folds]))
    federation = Federation(world)
    start = Processes.start

    def recorded(self, name, command, env):
        start(self, name, command, env)
        federation.groups[-1][name] = self.running[name].pid

    with pytest.MonkeyPatch.context() as patch:
        for name, value in world.env.items():
            patch.setenv(name, value)
        patch.setattr(Processes, "start", recorded)
        yield federation


@pytest.fixture(scope="module")
def finished(federation):
    """An uninterrupted training: its lines."""
    lines = []
    federation.run("FedAvg", say=lines.append)
    return lines


def checkpoint_of(federation, name):
    return load_checkpoint(os.path.join(federation.folder(name), "fold_0", "checkpoint_final.pth"))


@needs_flower
@pytest.mark.slow
def test_the_result_is_the_mean_of_the_parties_weights(federation, finished, tmp_path, monkeypatch):
    from nnunetv2_stitch.baselines.federated.trainer import LocalTrainer
    from nnunetv2_stitch.randomness import random_state, set_random_state

    job, threads, before = federation.job(tmp_path), torch.get_num_threads(), random_state()
    trainers, states = [], []
    for index in range(2):
        os.makedirs(job.party_folder(job.parties[index]))
        with monkeypatch.context() as patch:
            patch.setenv("nnUNet_results", job.party_folder(job.parties[index]))
            trainers.append(LocalTrainer(job, index))
        states.append(random_state())  # in their own processes they do not share the generators
    weights = trainers[0].weights()
    for name, value in trainers[1].weights().items():
        np.testing.assert_array_equal(value, weights[name])
    for number in range(1, ROUNDS + 1):
        local = []
        for index, trainer in enumerate(trainers):
            set_random_state(states[index])
            answer = trainer.train(number, weights)
            states[index] = random_state()
            local.append(trainer.weights())
            assert answer["cases"] == list(CASES.values())[index]
        weights = {n: (5 * local[0][n].astype(float) + 2 * local[1][n]) / 7 for n in weights}
        weights = {n: w.astype(np.float32) for n, w in weights.items()}
    set_random_state(before)
    torch.set_num_threads(threads)

    result = checkpoint_of(federation, "FedAvg")["network_weights"]
    for name, value in weights.items():
        np.testing.assert_allclose(result[name].numpy(), value, err_msg=name, **SAME)
    plain = max(np.abs(result[n].numpy() - (a + local[1][n]) / 2).max() for n, a in local[0].items())
    assert plain > 10 * SAME["atol"], "a mean without weights would have passed too"
    assert trainers[0].trainer.lr_scheduler.max_steps == ROUNDS


@needs_flower
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


@needs_flower
@pytest.mark.slow
def test_what_is_recorded_and_what_is_left(federation, finished):
    record = json.loads(Path(federation.folder("FedAvg"), "fold_0", "federated.json").read_text())
    assert record["cases"] == CASES and record["shares"] == {"A": 5 / 7, "B": 2 / 7}
    assert [entry["round"] for entry in record["rounds"]] == [1, 2]
    for entry in record["rounds"]:
        assert all(len(entry["losses"][name]) == 1 and np.isfinite(entry["losses"][name]).all() for name in CASES)
    assert record["settings"]["seed"] == SEED and set(record["versions"]) >= {"flwr", "nnunetv2", "torch"}
    rounds = [line for line in finished if line.startswith("round")]
    assert [line.split(":")[0] for line in rounds] == ["round 1/2", "round 2/2"]
    work = Path(federation.folder("FedAvg"), "fold_0", "federated")
    assert not list(work.rglob("*.safetensors")) and not list(work.rglob("*.pth")) and list(work.rglob("*.log"))
    assert len(federation.groups[0]) == 2 + 2 + 2 * 2 + 1  # trainers, link and its exec, nodes and theirs, flwr run
    assert not left_over(federation.groups[0].values())


@needs_flower
@pytest.mark.slow
def test_a_finished_training_is_left_alone(federation, finished):
    lines = []
    federation.run("FedAvg", resume=True, say=lines.append)
    assert not federation.groups.pop() and "is finished" in lines[-1]
    with pytest.raises(StitchError, match="is not empty; resume=True"):
        federation.run("FedAvg")
    with pytest.raises(StitchError, match="made with other rounds: 2, not 3"):
        federation.run("FedAvg", resume=True, rounds=3)


@needs_flower
@pytest.mark.slow
def test_a_killed_client_ends_the_training_which_then_goes_on(federation, finished):
    killed = []

    def kill_b(line):
        if line.startswith("round 1/2"):
            os.kill(federation.groups[-1]["trainer_B"], signal.SIGKILL)
            killed.append(line)

    with pytest.raises(StitchError, match=r"process trainer_B ended \(killed by SIGKILL\).*resume=True") as error:
        federation.run("Killed", say=kill_b)
    assert len(killed) == 1
    assert "\n" not in str(error.value)
    assert not left_over(federation.groups[-1].values())
    assert not os.path.exists(os.path.join(federation.folder("Killed"), "fold_0", "checkpoint_final.pth"))

    with pytest.raises(StitchError, match="made with other seed"):
        federation.run("Killed", resume=True, seed=SEED + 1)
    lines = []
    federation.run("Killed", resume=True, say=lines.append)
    assert lines[0] == "going on after round 1 of 2"
    assert [line.split(":")[0] for line in lines if line.startswith("round")] == ["round 2/2"]
    once, twice = (checkpoint_of(federation, name) for name in ("FedAvg", "Killed"))
    for name, value in once["network_weights"].items():
        np.testing.assert_allclose(twice["network_weights"][name].numpy(), value.numpy(), err_msg=name, **SAME)
    assert len(twice["logging"]["train_losses"]) == ROUNDS
    np.testing.assert_allclose(twice["logging"]["lrs"], once["logging"]["lrs"])
    assert not left_over(federation.groups[-1].values())


@needs_flower
@pytest.mark.slow
def test_nothing_outlives_a_killed_launcher(tmp_path):
    code = f"""
import os, time
from nnunetv2_stitch.baselines.federated.processes import Processes
from nnunetv2_stitch.baselines.federated.flower import child_environment
env = dict(child_environment(), FLWR_TELEMETRY_ENABLED="0", FLWR_DISABLE_UPDATE_CHECK="1", FLWR_HOME={str(tmp_path)!r})
with Processes({str(tmp_path)!r}, {str(tmp_path)!r}) as processes:
    processes.start("link", ["flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", "{free_port()}",
                             "--isolation", "process"], env)
    processes.wait_for(lambda: "startup complete" in open(processes.log("link")).read(), "start", "link", 60)
    print(processes.running["link"].pid, flush=True)
    time.sleep(60)
"""
    from nnunetv2_stitch.baselines.federated.flower import child_environment
    launcher = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True,
                                env=child_environment())
    group = int(launcher.stdout.readline())
    assert left_over([group], seconds=0) == [group]
    launcher.kill()
    launcher.wait()
    launcher.stdout.close()
    assert not left_over([group])


def free_port():
    from nnunetv2_stitch.baselines.federated.flower import _free_ports
    return _free_ports(1)[0]
