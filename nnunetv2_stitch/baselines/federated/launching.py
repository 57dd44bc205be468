"""What every training of several parties in rounds begins and ends with, however the rounds are merged."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import nnunetv2_stitch
from nnunetv2_stitch.baselines.federated.flower import child_environment
from nnunetv2_stitch.baselines.federated.job import Job
from nnunetv2_stitch.baselines.federated.processes import Processes
from nnunetv2_stitch.environment import usable_cores
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import atomically, read_json, write_json
from nnunetv2_stitch.folders import names_in
from nnunetv2_stitch.locks import plans_locked

FINAL, CURVE_FILE = "checkpoint_final.pth", "progress.png"


def fold_folder_of(output_folder: str, fold: int | str, resume: bool) -> str:
    """Raises StitchError if there is something in it, unless `resume`."""
    folder = os.path.join(os.path.abspath(output_folder), f"fold_{fold}")
    if os.path.isdir(folder) and names_in(folder) and not resume:
        raise StitchError(f"{folder} is not empty; resume=True goes on with the training in it, or delete it")
    return folder


def threads_for_each(parties: int) -> int:
    """Threads for each of several trainers at work at the same time: an equal share of the cores.

    At the same time rather than one after another, because nnU-Net prepares patches in a single thread, during which
    the other cores would idle. More threads than cores would make all of them slower.
    """
    cores = usable_cores()
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return min(max(1, cores // parties), int(wanted) if wanted.isdecimal() and int(wanted) else cores)


@contextmanager
def alone(folder: str) -> Iterator[None]:
    """Nobody else works in the folder. The lock ends with the process, however it ends.

    Raises:
        StitchError: somebody does, or the folder cannot be written to.
    """
    import fcntl  # not on Windows, where nothing here runs but importing must not fail
    try:
        os.makedirs(folder, exist_ok=True)
        lock = open(os.path.join(folder, ".lock"), "w")
    except PermissionError as error:
        raise StitchError(f"no permission to write into {folder}; choose another output_folder") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StitchError(f"another federated training works in {folder}; wait for it") from error
        yield


def finished(fold_folder: str, job: Job, record_file: str) -> bool:
    """Whether the training is. Raises StitchError if what is there was made with other settings."""
    path = os.path.join(fold_folder, record_file)
    if not (os.path.isfile(path) and os.path.isfile(os.path.join(fold_folder, FINAL))):
        return False
    require_same(read_json(path).get("settings", {}), job, path)
    return True


def require_same(settings: dict[str, Any], job: Job, path: str) -> None:
    """Raises StitchError if `settings`, found in `path`, are not those of the job."""
    changed = [key for key, value in job.settings.items() if settings.get(key) != value]
    if changed:
        raise StitchError(f"{path} was made with other {changed[0]}: {settings.get(changed[0])}, not "
                          f"{job.settings[changed[0]]}; use the same, or another output_folder")


def start_trainers(job: Job, trainers: Processes) -> Job:
    """Start a trainer per party and wait until all are ready; returns the job with their addresses."""
    job.write()
    for index, party in enumerate(job.parties):
        results = job.party_folder(party)
        os.makedirs(results, exist_ok=True)
        env = {"nnUNet_n_proc_DA": str(job.threads - 1), **child_environment(), "nnUNet_results": results,
               "nnUNet_preprocessed": job.preprocessed, "nnUNet_wandb_enabled": "0",
               "OMP_NUM_THREADS": str(job.threads), "PYTHONUNBUFFERED": "1"}
        trainers.start(f"trainer_{party.name}", ["trainer", job.path, str(index)], env)
    ready = [job.ready_file(index) for index in range(len(job.parties))]
    for file, party in zip(ready, job.parties):
        trainers.wait_for(lambda file=file: os.path.isfile(file), "", f"trainer_{party.name}")
    return replace(job, trainers=tuple(tuple(read_json(file)["address"]) for file in ready))


def write_files_beside(job: Job, output_folder: str) -> None:
    """plans.json, dataset.json and dataset_fingerprint.json of the host."""
    plans, dataset_json = job.party_files(job.parties[0])
    path = os.path.join(output_folder, "plans.json")
    with plans_locked(path):
        write_json(path, plans)
    write_json(os.path.join(output_folder, "dataset.json"), dataset_json)
    fingerprint = os.path.join(job.host_folder, "dataset_fingerprint.json")
    atomically(os.path.join(output_folder, "dataset_fingerprint.json"),
               lambda temporary: shutil.copyfile(fingerprint, temporary))


def versions() -> dict[str, str]:
    """Of this package and of those that decide what comes out."""
    return {"nnunetv2_stitch": nnunetv2_stitch.__version__,
            **{name: _version(name) for name in ("flwr", "nnunetv2", "torch", "numpy")}}


def tidy(job: Job, *files: str) -> None:
    """Keep the logs; `files` of the job's folder and the parties' states are not needed any more."""
    for name in files:
        os.remove(os.path.join(job.folder, name))
    for party in job.parties:
        folder = job.party_folder(party)
        for name in os.listdir(folder):
            if name.startswith("state_") or name.startswith(".tmp"):
                os.remove(os.path.join(folder, name))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
