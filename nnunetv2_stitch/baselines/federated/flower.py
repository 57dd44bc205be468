"""Flower's own processes on this machine: a SuperLink, a SuperNode per party, and the SuperExecs that run the apps.

Everything listens on the loopback device alone, without TLS; telemetry, update checks and the installation of packages
at run time are off, so nothing goes out. `start_server` and `start_client`, which would need fewer processes, are
deprecated since Flower 1.13.
"""

from __future__ import annotations

import http.client
import os
import queue
import site
import socket
import sysconfig
import threading
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import distribution
from importlib.util import find_spec
from multiprocessing.connection import Listener
from typing import Any

import nnunetv2_stitch
from nnunetv2_stitch.baselines.federated import wire
from nnunetv2_stitch.baselines.federated.job import JOB_VARIABLE, PARTY_VARIABLE, Job
from nnunetv2_stitch.baselines.federated.processes import POLL_SECONDS, Processes, stopped
from nnunetv2_stitch.errors import StitchError

START_SECONDS = 120  # for one of Flower's processes to answer; it takes a few seconds
SERVER = "flower_server"
PARTY_PROCESSES = ("flower_node_", "flower_client_")
# Flower copies an app to where it runs it. This one only points to the job's server and to this package's client.
APP_FILES = {
    "pyproject.toml": """[project]
name = "nnunet-rounds"
version = "1.0.0"
description = "nnU-Net trainings of several parties, in rounds"
license = "Apache-2.0"

[tool.flwr.app]
publisher = "nnunetv2-stitch"

[tool.flwr.app.components]
serverapp = "rounds.server:app"
clientapp = "rounds.client:app"

[tool.flwr.app.config]
""",
    "rounds/__init__.py": "",
    "rounds/client.py": "from nnunetv2_stitch.baselines.federated import client_app\n\napp = client_app.app\n",
}


def require_flower() -> None:
    """Raises StitchError if Flower is not installed, or this is Windows."""
    if find_spec("flwr") is None:
        raise StitchError("trainings of several parties in rounds need Flower, which is not installed; run "
                          "pip install 'nnunetv2-stitch[federated]' (Python 3.11 or newer)")
    if os.name == "nt":
        raise StitchError("trainings of several parties in rounds run on Linux and macOS only")


def child_environment() -> dict[str, str]:
    """The environment for all processes: this package can be imported, also from a checkout that is not installed."""
    env = dict(os.environ)
    root = os.path.dirname(os.path.dirname(os.path.abspath(nnunetv2_stitch.__file__)))
    # Not where all packages are: there some would come before modules of the standard library that have their names.
    if root not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), site.getusersitepackages()):
        env["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [env.get("PYTHONPATH")])])
    return env


def run_rounds(job: Job, say: Callable[[dict[str, Any]], None], check: Callable[[], None]) -> None:
    """Run the job's remaining rounds; the trainers must be ready to be asked.

    Args:
        say: receives the server's report of each round.
        check: raises an error if a trainer has ended.

    Raises:
        StitchError: a process ended or failed; all of them are gone then.
    """
    with wire.listen(job.key) as listener, Processes(job.logs, job.scratch) as processes:
        job = replace(job, launcher=listener.address)
        job.write()
        reports = _listen_to_server(listener)
        _start(job, processes)
        _follow(reports, processes, job, say, check)


def _environment(job: Job) -> dict[str, str]:
    env = child_environment()
    # SuperExec starts flwr-serverapp and flwr-clientapp by their names.
    scripts = {str(f.locate().resolve().parent) for f in distribution("flwr").files or [] if f.name == "flwr-clientapp"}
    env["PATH"] = os.pathsep.join([*scripts, env.get("PATH", os.defpath)])
    for variable in ("NO_PROXY", "no_proxy"):  # a proxy to the Internet cannot reach this machine's loopback
        env[variable] = ",".join([*filter(None, [env.get(variable)]), wire.LOOPBACK, "localhost"])
    return {
        **env, JOB_VARIABLE: job.path, "nnUNet_preprocessed": job.preprocessed, "OMP_NUM_THREADS": "1",
        "FLWR_HOME": os.path.join(job.scratch, "flower"), "TMPDIR": job.scratch,  # whatever a killed one leaves
        "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "FLWR_TRACING_ENABLED": "0",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1", "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
        "PYTHONUNBUFFERED": "1",
    }


def _start(job: Job, processes: Processes) -> None:
    env = _environment(job)
    app = _write_app(job)
    port, *node_ports = _free_ports(1 + len(job.parties))
    link = f"{wire.LOOPBACK}:{port}"
    with open(os.path.join(env["FLWR_HOME"], "config.toml"), "w") as f:
        f.write(f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "{link}"\ninsecure = true\n')
    # `process`: the launcher starts the SuperExecs, so that it can end them and what they start.
    processes.start("flower_link", ["flower-superlink", "--insecure", "--host", wire.LOOPBACK, "--port", str(port),
                                    "--isolation", "process"], env)
    processes.wait_for(lambda: _answers(port), "starting Flower's SuperLink", "flower_link", START_SECONDS)
    processes.start(SERVER, ["flower-superexec", "--insecure", "--runtime-api-address", link], env)
    for party, node_port in zip(job.parties, node_ports):
        processes.start(f"flower_node_{party.name}",
                        ["flower-supernode", "--insecure", "--superlink", link, "--host", wire.LOOPBACK, "--port",
                         str(node_port), "--isolation", "process"], env)
    for index, (party, node_port) in enumerate(zip(job.parties, node_ports)):
        processes.wait_for(lambda port=node_port: _answers(port), "starting Flower's SuperNode",
                           f"flower_node_{party.name}", START_SECONDS)
        processes.start(f"flower_client_{party.name}",
                        ["flower-superexec", "--insecure", "--runtime-api-address", f"{wire.LOOPBACK}:{node_port}"],
                        {**env, PARTY_VARIABLE: str(index)})
    processes.call("flower_run", ["flwr", "run", app, "here"], env, START_SECONDS)


def _write_app(job: Job) -> str:
    folder = os.path.join(job.scratch, "nnunet-rounds")
    os.makedirs(os.path.join(folder, "rounds"))
    os.makedirs(os.path.join(job.scratch, "flower"))
    server = f"import {job.server}\n\napp = {job.server}.app\n"
    for name, content in {**APP_FILES, "rounds/server.py": server}.items():
        with open(os.path.join(folder, name), "w") as f:
            f.write(content)
    return folder


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on. All are held until all are known, so that they differ."""
    sockets = [socket.create_server((wire.LOOPBACK, 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def _answers(port: int) -> bool:
    """Whether an HTTP server answers there, with whatever."""
    connection = http.client.HTTPConnection(wire.LOOPBACK, port, timeout=5)  # knows nothing of proxies
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _listen_to_server(listener: Listener) -> queue.Queue:
    """What the server reports, one dict each, and last `None`, whether it finished or was killed."""
    reports: queue.Queue = queue.Queue()

    def listen() -> None:
        try:
            with wire.accept(listener) as connection:
                while True:
                    reports.put(wire.receive(connection)[0])
        except (OSError, EOFError):
            reports.put(None)

    threading.Thread(target=listen, daemon=True).start()
    return reports


def _follow(reports: queue.Queue, processes: Processes, job: Job, say: Callable[[dict[str, Any]], None],
            check: Callable[[], None]) -> None:
    """Pass on reports until the server is done."""
    started = False
    waited = 0.0
    while True:
        check()  # first, because a trainer's own words say more than what Flower makes of its end
        _check(processes, job)
        try:
            report = reports.get(timeout=POLL_SECONDS)
        except queue.Empty:
            waited += POLL_SECONDS
            if not started and waited > START_SECONDS:
                raise processes.failure(f"starting Flower's server took more than {START_SECONDS} s",
                                        SERVER) from None
            continue
        started = True
        if report is None:
            raise stopped("Flower's server process was killed", processes.log("flower_link"))
        if "error" in report:
            raise stopped(report["error"], job.server_log)
        if report.get("done"):
            return
        if not report.get("started"):
            say(report)


def _check(processes: Processes, job: Job) -> None:
    """Raises StitchError if a process has ended that the training cannot do without."""
    for name in processes.ended():
        if not (job.may_miss and name.startswith(PARTY_PROCESSES)):
            raise processes.lost(name)
