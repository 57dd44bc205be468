"""Kind: what the how-to tells users to type runs. Flower's own SuperLink and SuperNodes on the loopback device, and
`flwr run` of the app's folder."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import world as worlds
from shared_plans import SHARED, shared_plans

from nnunetv2_stitch.federation.app import main as write_app_command
from nnunetv2_stitch.parties.checkpoint import load_checkpoint

needs_flower = pytest.mark.skipif(find_spec("flwr") is None,
                                  reason="Flower (flwr) is not installed; it needs Python 3.11 or newer")
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
         "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1", "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def wait_until_it_listens(port, seconds=120):
    deadline = time.monotonic() + seconds
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline, "the SuperLink did not start"
            time.sleep(0.2)


@pytest.fixture
def deployment(tmp_path):
    """`start(command, env)`: a Flower process that lives as long as the test, with all that it starts."""
    processes = []

    def start(command, env):
        with open(tmp_path / f"{len(processes)}.log", "w") as log:
            processes.append(subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT,
                                              start_new_session=True, cwd=tmp_path))
    yield start
    everybody = with_children([p.pid for p in processes])  # Flower starts some in groups of their own
    for pid in everybody:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for process in processes:
        process.wait()


def with_children(pids):
    """These processes and all that they have started."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = set(pids)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


@needs_flower
@pytest.mark.slow
def test_flwr_run_leaves_an_ordinary_model_at_the_centre(world2d, copy_world, deployment, tmp_path, capsys):
    world = copy_world(world2d)
    env = {**os.environ, **world.env, **QUIET, "FLWR_HOME": str(tmp_path / "flower"),
           "PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])}
    port, *node_ports = free_ports(3)
    link, app = f"127.0.0.1:{port}", tmp_path / "nnunet-rounds"
    assert write_app_command([str(app)]) == 0 and "flwr run" in capsys.readouterr().out
    (tmp_path / "flower").mkdir()
    (tmp_path / "flower" / "config.toml").write_text(
        f'[superlink]\ndefault = "centre"\n\n[superlink.centre]\naddress = "{link}"\ninsecure = true\n')
    deployment(["flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(port)], env)
    wait_until_it_listens(port)
    for name, party, node_port in zip("AB", world.parties, node_ports):
        shared_plans(world, party)
        deployment(["flower-supernode", "--insecure", "--superlink", link, "--host", "127.0.0.1", "--port",
                    str(node_port), "--node-config",
                    f'party="{name}" dataset="{party.dataset}" plans="{SHARED}" device="cpu"'], env)
    config = (f'centre_dataset="{world.host.dataset}" centre_plans="{worlds.PLANS}" centre_device="cpu" rounds=1 '
              f'iterations=2 steps=1 granularity="model" deadline=900.0')
    done = subprocess.run(["flwr", "run", str(app), "centre", "--stream", "--run-config", config], env=env,
                          capture_output=True, text=True, timeout=500, cwd=tmp_path)
    logs = "\n".join(p.read_text()[-3000:] for p in sorted(tmp_path.glob("*.log")))
    folder = world.results / world.host.dataset / f"nnUNetTrainerGuidedRounds__{worlds.PLANS}__2d" / "fold_0"
    assert (folder / "guided_rounds.json").is_file(), f"{done.stdout}{done.stderr}{logs}"
    assert "round 1/1: A in time, B in time" in done.stdout + done.stderr
    (entry,) = json.loads((folder / "guided_rounds.json").read_text())["rounds"]
    assert {m["party"]: m["cases"] for m in entry["models"]}.keys() == {"A", "B"} and entry["merge"]["chosen"]
    assert load_checkpoint(str(folder / "checkpoint_final.pth"))["trainer_name"] == "nnUNetTrainer"
