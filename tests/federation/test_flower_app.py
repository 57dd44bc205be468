"""The app's own ServerApp and ClientApp, real trainings included, with messages handed over in this process."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import world as worlds
from shared_plans import SHARED, shared_plans

pytest.importorskip("flwr", reason="Flower (flwr) is not installed; it needs Python 3.11 or newer")

import tomllib  # noqa: E402
from flwr.app import Error, Message  # noqa: E402
from flwr.serverapp import Grid  # noqa: E402
from flwr.supercore.task_identity import TaskIdentity  # noqa: E402

from nnunetv2_stitch.environment import environment_set  # noqa: E402
from nnunetv2_stitch.errors import StitchError  # noqa: E402
from nnunetv2_stitch.federation import client_app, server_app  # noqa: E402
from nnunetv2_stitch.federation.app import PYPROJECT  # noqa: E402
from nnunetv2_stitch.federation.client_app import party_of  # noqa: E402
from nnunetv2_stitch.fileio import read_json  # noqa: E402
from nnunetv2_stitch.parties.checkpoint import load_checkpoint  # noqa: E402


class HandedOver(Grid):
    """Nodes answer when they are asked; those in `silent` in no round, `broken` with an error."""

    run = None

    def __init__(self, env, configs, run_config, silent=(), broken=()):
        self.env, self.configs, self.run_config, self.silent, self.broken = env, configs, run_config, silent, broken
        self.asked, self.answers = [], {}

    def set_run(self, run):
        raise NotImplementedError

    create_message = send_and_receive = set_run

    def get_node_ids(self):
        return list(self.configs)

    def push_messages(self, messages):
        for message in messages:
            node, identity = message.metadata.dst_node_id, f"m{len(self.asked)}"
            message.metadata.__dict__["_message_id"] = identity
            self.asked.append((node, message.content["config"]["round"]))
            if node not in self.silent:
                context = SimpleNamespace(node_config=self.configs[node], run_config=self.run_config)
                with environment_set(self.env):  # a process of its own has its own
                    self.answers[identity] = Message(Error(1, "broken"), reply_to=message) if node in self.broken \
                        else client_app.train(message, context)
            yield identity

    def pull_messages(self, message_ids):
        return [self.answers.pop(i) for i in message_ids if i in self.answers]


@pytest.fixture
def federation(world2d, copy_world, nnunet_env, monkeypatch):
    """A, which is the centre too, and B; the folder of the result; and `run(**changes)` of the settings."""
    world = nnunet_env(copy_world(world2d))
    threads = torch.get_num_threads()
    monkeypatch.setattr(server_app, "POLL_SECONDS", 0.01)
    for name in ("_task_id", "_run_id", "_node_id"):  # what Flower sets in the process of a ServerApp
        monkeypatch.setattr(TaskIdentity, name, 1)
    nodes = {number: {"party": name, "dataset": party.dataset, "plans": shared_plans(world, party), "device": "cpu"}
             for number, (name, party) in enumerate(zip("AB", world.parties), 1)}
    config = {**tomllib.loads(PYPROJECT)["tool"]["flwr"]["app"]["config"], "centre_dataset": world.host.dataset,
              "centre_plans": worlds.PLANS, "centre_device": "cpu", "iterations": 2, "steps": 1,
              "granularity": "model", "rounds": 2}

    def run(silent=(), broken=(), **changes):
        grid = HandedOver(world.env, nodes, {**config, **changes}, silent, broken)
        server_app.main(grid, SimpleNamespace(run_config=grid.run_config))
        return grid

    yield SimpleNamespace(world=world, run=run, nodes=nodes,
                          folder=world.results / world.host.dataset / f"nnUNetTrainerGuidedRounds__{worlds.PLANS}__2d")
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_rounds_that_were_interrupted_go_on_and_leave_an_ordinary_model(federation, monkeypatch, capsys):
    keep, fold = server_app.keep_round, federation.folder / "fold_0"

    def killed_after_it(*arguments):
        keep(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(server_app, "keep_round", killed_after_it)
        with pytest.raises(KeyboardInterrupt):
            federation.run()
    assert not (fold / "checkpoint_final.pth").exists()
    with pytest.raises(StitchError, match="made with other seed"):
        federation.run(seed=1)
    grid = federation.run(deadline=7200.0, broken=[2])
    printed = capsys.readouterr().out
    assert "going on after round 1 of 2" in printed and "2 of 2 parties are connected" in printed
    assert grid.asked == [(1, 2), (2, 2)]
    record = read_json(str(fold / "guided_rounds.json"))
    assert [e["round"] for e in record["rounds"]] == [1, 2] and record["waiting"]["deadline"] == 7200
    assert {m["party"]: m["age"] for m in record["rounds"][1]["models"]} == {"A": 0, "B": 1}
    assert record["rounds"][1]["failed"] == {"node 2": "broken"}
    assert all(e["merge"]["scores"].keys() >= {"A alone", "B alone"} for e in record["rounds"])
    assert load_checkpoint(str(fold / "checkpoint_final.pth"))["trainer_name"] == "nnUNetTrainer"
    assert {p.name for p in fold.iterdir()} == {"checkpoint_final.pth", "guided_rounds.json", "progress.png",
                                                "federated"}
    assert not list(fold.glob("federated/*.safetensors")) and not (fold / "federated" / "models").exists()
    training = record["settings"]["training"]
    party = federation.world.results / federation.world.host.dataset / f"nnUNetTrainerGuidedRounds__{SHARED}__2d"
    states = sorted(p.name for p in (party / "fold_0" / "federated" / "parties" / "A" / training).glob("state_*"))
    assert states == ["state_00001.pth", "state_00002.pth"]
    assert not federation.run().asked, "a finished training was not left alone"

    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False, use_mirroring=False)
    predictor.initialize_from_trained_model_folder(str(federation.folder), use_folds=(0,))
    image = np.random.default_rng(0).normal(size=(1, 1, 64, 64)).astype(np.float32)
    assert predictor.predict_single_npy_array(image, {"spacing": [999.0, 1.0, 1.0]}).shape == (1, 64, 64)


@pytest.mark.slow
def test_a_silent_party_is_not_waited_for_after_the_deadline_and_a_start_is_taken(federation):
    start = federation.world.model(federation.world.host) / "fold_0" / "checkpoint_final.pth"
    grid = federation.run(silent=[2], rounds=2, deadline=0.5, start=str(start))
    entries = json.loads((federation.folder / "fold_0" / "guided_rounds.json").read_text())["rounds"]
    assert [e["answered"] for e in entries] == [["A"], ["A"]] and all(e["waiting_for"] == ["node 2"] for e in entries)
    assert [n for n, _ in grid.asked].count(2) == 1
    weights = [load_checkpoint(str(p))["network_weights"] for p in (start, federation.folder / "fold_0" /
                                                                    "checkpoint_final.pth")]
    for name, value in weights[0].items():  # with fewer than two models the global model stays
        assert torch.equal(value, weights[1][name])


@pytest.mark.parametrize(("config", "message"), [
    ({}, "does not say its party"), ({"party": "B", "dataset": "Dataset501_B"}, "does not say its plans"),
    ({"party": "../B", "dataset": "Dataset501_B", "plans": "nnUNetPlans"}, "use letters, digits, _ and -"),
])
def test_a_supernode_that_does_not_say_who_it_is(config, message):
    with pytest.raises(StitchError, match=message):
        party_of(config)
