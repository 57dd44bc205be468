"""The parts of federated averaging, without Flower: processes, what is kept and what is refused."""

import json
import os
import socket
from dataclasses import replace
from multiprocessing import AuthenticationError, Pipe
from pathlib import Path
from queue import Queue
from threading import Event, Thread, Timer
from types import SimpleNamespace

import numpy as np
import pytest
import world as worlds
from left_over import left_over

from nnunetv2_stitch.baselines.federated import FederatedParty, federated_averaging, flower, wire
from nnunetv2_stitch.baselines.federated import processes as processes_module
from nnunetv2_stitch.baselines.federated.job import Job, check_request
from nnunetv2_stitch.baselines.federated.processes import Processes
from nnunetv2_stitch.baselines.federated.run import threads_for_each
from nnunetv2_stitch.baselines.federated.state import State, read_state, write_state
from nnunetv2_stitch.errors import StitchError


def test_processes_end_with_their_block(tmp_path, monkeypatch):
    monkeypatch.setattr(processes_module, "CHILD", "http.server")
    with pytest.raises(KeyboardInterrupt):
        with Processes(str(tmp_path / "logs"), str(tmp_path)) as processes:
            processes.start("one", ["0"], os.environ)
            processes.start("two", ["0"], os.environ)
            groups = [p.pid for p in processes.running.values()]
            assert len(left_over(groups, seconds=0)) == 2
            raise KeyboardInterrupt
    assert not left_over(groups)


def test_a_process_that_ends_is_an_error_with_its_last_line(tmp_path, monkeypatch):
    monkeypatch.setattr(processes_module, "CHILD", "http.server")
    with Processes(str(tmp_path / "logs"), str(tmp_path)) as processes:
        processes.start("one", ["no port"], os.environ)
        with pytest.raises(StitchError, match=r"process one ended \(exit code 2\): .*invalid int value.*one.log"):
            processes.wait_for(lambda: False, "nothing", "one", 20)
    with open(processes.log("one"), "a") as log:
        log.write("\x1b[91mERROR\x1b[0m: in red\n\n")
    assert "stopped: what: ERROR: in red; see" in str(processes.failure("what", "one"))
    with Processes(str(tmp_path / "logs"), str(tmp_path)) as processes:
        processes.start("two", ["0"], os.environ)
        with pytest.raises(StitchError, match="starting took more than 1 s"):
            processes.wait_for(lambda: False, "starting", "two", 1)


def test_a_trainer_ends_when_flowers_process_dies_in_a_round(monkeypatch):
    from nnunetv2_stitch.baselines.federated import trainer
    codes = []
    monkeypatch.setattr(trainer.os, "_exit", codes.append)
    for answered, expected in ((False, [1]), (True, [1])):
        ours, theirs = Pipe()
        done = Event()
        if answered:
            done.set()
        theirs.close()
        trainer._exit_on_hang_up(ours, done)
        assert codes == expected


def test_a_long_first_round_is_no_server_that_does_not_start(monkeypatch, tmp_path):
    monkeypatch.setattr(flower, "START_SECONDS", 0.1)
    monkeypatch.setattr(flower, "POLL_SECONDS", 0.02)
    job, said = SimpleNamespace(may_miss=False), []
    with Processes(str(tmp_path), str(tmp_path)) as processes:
        def follow(*first):
            reports = Queue()
            for report in first:
                reports.put(report)
            later = Timer(0.3, lambda: [reports.put(r) for r in ({"round": 1}, {"done": True})])
            later.start()
            try:
                flower._follow(reports, processes, job, said.append, lambda: None)
            finally:
                later.join()

        follow({"started": True})
        assert said == [{"round": 1}]
        with pytest.raises(StitchError, match="starting Flower's server took more than"):
            follow()


def test_only_who_knows_the_key_is_let_in():
    key, heard = "ab" * 32, []

    def answer(listener):
        with wire.accept(listener) as connection:
            heard.append(wire.receive(connection)[0])
            wire.send(connection, {"cases": 3}, {"a": np.ones((2, 3), np.float32)})

    with wire.listen(key) as listener:
        server = Thread(target=answer, args=(listener,))
        server.start()
        socket.create_connection(listener.address).close()
        with pytest.raises(AuthenticationError):
            wire.ask(listener.address, "cd" * 32, {"do": "weights"})
        header, arrays = wire.ask(list(listener.address), key, {"do": "weights"})
        server.join()
    assert heard == [{"do": "weights"}] and header == {"cases": 3}
    np.testing.assert_array_equal(arrays["a"], np.ones((2, 3)))


def test_state_round_trip(tmp_path):
    path = str(tmp_path / "weights.safetensors")
    state = State(3, {"seed": 1}, [{"round": 1}], {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3)})
    write_state(path, state)
    again = read_state(path)
    assert replace(again, weights={}) == replace(state, weights={})
    np.testing.assert_array_equal(again.weights["a.weight"], state.weights["a.weight"])
    assert [p.name for p in tmp_path.iterdir()] == ["weights.safetensors"]
    Path(path).write_bytes(b"cut short")
    with pytest.raises(StitchError, match="is not a federated training's state"):
        read_state(path)


def test_job_round_trip(tmp_path):
    parties = (FederatedParty("A", "Dataset001_A", "nnUNetPlans"), FederatedParty("B", "Dataset002_B", "nnUNetPlans"))
    job = Job(parties, "2d", "all", 2, 1, None, 1, "cpu", 1, "/p", "/f", str(tmp_path), "00", 1, ("127.0.0.1", 1),
              (("127.0.0.1", 2),))
    job.write()
    again = Job.read(job.path)
    assert again.settings == job.settings and again.trainers == job.trainers and again.parties == job.parties


def test_threads_are_shared(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [threads_for_each(n) for n in (1, 2, 3, 20)] == [8, 4, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert [threads_for_each(n) for n in (1, 2, 3)] == [3, 3, 2]


@pytest.fixture
def asked(world2d, copy_world, nnunet_env):
    """`asked(change)`: what `check_request` says after `change(world)`."""
    def ask(change=lambda world: None, names=("A", "B"), plans=worlds.PLANS, configuration="2d", rounds=1):
        world = nnunet_env(copy_world(world2d))
        change(world)
        parties = [FederatedParty(n, p.dataset, plans) for n, p in zip(names, (world.host, world.partner))]
        return check_request(parties, configuration, 0, rounds, 1, None)
    return ask


def edit(name, change):
    def apply(world):
        path = world.preprocessed / world.partner.dataset / name
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
    return apply


def test_a_partner_with_another_network_is_fine(asked):
    assert asked().endswith("preprocessed")


@pytest.mark.parametrize(("arguments", "message"), [
    ({"rounds": 0}, "rounds is 0; it must be at least 1"),
    ({"names": ("A",)}, "at least two parties"),
    ({"names": ("A", "a")}, "they must differ"),
    ({"names": ("A", "../B")}, "made of letters"),
    ({"plans": "nnUNetOtherPlans"}, "nnUNetOtherPlans.json does not exist"),
    ({"configuration": "3d_fullres"}, "has no configuration 3d_fullres; it has 2d"),
    ({"change": edit("nnUNetPlans.json", lambda p: p["configurations"]["2d"].update(spacing=[2.0, 2.0]))},
     "spacing differs from Dataset801_HostBlobs.*nnUNetv2_move_plans_between_datasets"),
    ({"change": edit("nnUNetPlans.json", lambda p: p["configurations"]["2d"].update(data_identifier="no"))},
     "run nnUNetv2_preprocess -d Dataset802"),
    ({"change": edit("nnUNetPlans.json", lambda p: p["configurations"]["2d"].update(previous_stage="x"))}, "cascade"),
    ({"change": edit("dataset.json", lambda d: d["labels"].update(c=3))}, "labels in dataset.json differs"),
    ({"change": lambda w: (w.preprocessed / w.partner.dataset / "dataset_fingerprint.json").unlink()},
     "nnUNetv2_extract_fingerprint -d Dataset802"),
])
def test_bad_input(asked, arguments, message):
    with pytest.raises(StitchError, match=message):
        asked(**arguments)


def test_without_folders_or_flower(monkeypatch, tmp_path):
    parties = [FederatedParty("A", "Dataset001_A", "nnUNetPlans"), FederatedParty("B", "Dataset002_B", "nnUNetPlans")]
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    with pytest.raises(StitchError, match="nnUNet_preprocessed is not set"):
        check_request(parties, "2d", 0, 1, 1, None)
    monkeypatch.setattr("nnunetv2_stitch.baselines.federated.flower.find_spec", lambda name: None)
    with pytest.raises(StitchError, match=r"pip install 'nnunetv2-stitch\[federated\]'"):
        federated_averaging(parties, "2d", 0, str(tmp_path), 1)
