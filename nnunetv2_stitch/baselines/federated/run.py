"""Federated averaging from end to end: start the processes, follow the rounds, leave an ordinary nnU-Net model."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from nnunetv2_stitch.baselines.federated import wire
from nnunetv2_stitch.baselines.federated.curve import training_curve
from nnunetv2_stitch.baselines.federated.flower import require_flower, run_rounds
from nnunetv2_stitch.baselines.federated.job import FederatedParty, Job, check_request
from nnunetv2_stitch.baselines.federated.launching import (
    CURVE_FILE,
    FINAL,
    alone,
    finished,
    fold_folder_of,
    require_same,
    start_trainers,
    threads_for_each,
    tidy,
    versions,
    write_files_beside,
)
from nnunetv2_stitch.baselines.federated.processes import Processes
from nnunetv2_stitch.baselines.federated.state import WEIGHTS_FILE, State, read_state, write_state
from nnunetv2_stitch.fileio import write_json

RECORD_FILE = "federated.json"


def federated_averaging(parties: Sequence[FederatedParty], configuration: str, fold: int | str, output_folder: str,
                        rounds: int, epochs_per_round: int = 1, iterations: int | None = None, seed: int = 12345,
                        device: str = "cpu", resume: bool = False,
                        say: Callable[[str], None] = lambda line: None) -> None:
    """Train one network on several parties' data by FedAvg (McMahan et al. 2017, Algorithm 1), with Flower.

    A SuperLink and a SuperNode per party run as processes of this machine and talk over its loopback device; each
    party has a trainer process that sees only this party's dataset. All parties use the host's plans and start from
    the same weights. In a round each trains for `epochs_per_round` epochs, at the same time; then the server averages
    their weights by their numbers of training cases. Optimizer state stays with the party; the learning rate falls
    over all rounds as in one nnU-Net training of `rounds * epochs_per_round` epochs.

    Leaves in `output_folder` an ordinary model folder: plans.json, dataset.json, dataset_fingerprint.json and fold_X
    with checkpoint_final.pth (trainer_name nnUNetTrainer, so stock prediction needs nothing of ours), federated.json
    and progress.png. fold_X/federated holds logs, and until the end what is needed to go on.

    Args:
        parties: the first is the host.
        configuration, fold: as nnUNetv2_train takes them; each party has its own splits_final.json.
        output_folder: see `federated_folder`.
        iterations: training steps per epoch; None for nnU-Net's own 250.
        seed: of the first weights, and of each party's patches. With augmentation in the trainer's process
            (nnUNet_n_proc_DA=0) on a CPU a training can be repeated.
        device: `cpu`, `cuda` or `mps`; all trainers share it.
        resume: go on after the last finished round of an interrupted training; do nothing if it is finished.
        say: receives one line per step and round.

    Raises:
        StitchError: bad input; or a process ended, within 2 seconds of its end. (Flower's process that asks a trainer
            may take 70 seconds to be missed, if it ends outside the local epochs.) No process is left behind, also on
            Ctrl-C.
    """
    require_flower()
    preprocessed = check_request(parties, configuration, fold, rounds, epochs_per_round, iterations)
    fold_folder = fold_folder_of(output_folder, fold, resume)
    job = Job(parties=tuple(parties), configuration=configuration, fold=fold, rounds=rounds,
              epochs_per_round=epochs_per_round, iterations=iterations, seed=seed, device=device,
              threads=threads_for_each(len(parties)), preprocessed=preprocessed,
              folder=os.path.join(fold_folder, "federated"), scratch="", key=secrets.token_hex(32))
    with alone(job.folder):
        if finished(fold_folder, job, RECORD_FILE):
            say(f"{fold_folder} is finished")
            return
        # Short and private: it holds the run's key.
        with tempfile.TemporaryDirectory(prefix="fedavg_", ignore_cleanup_errors=True) as scratch:
            _train(replace(job, scratch=scratch), os.path.abspath(output_folder), fold_folder, say)


def _train(job: Job, output_folder: str, fold_folder: str, say: Callable[[str], None]) -> None:
    path = os.path.join(job.folder, WEIGHTS_FILE)
    state = read_state(path) if os.path.isfile(path) else None
    if state is not None:
        require_same(state.settings, job, path)
        job = replace(job, start_round=state.round)
        say(f"going on after round {state.round} of {job.rounds}")
    with Processes(job.logs, job.scratch) as trainers:
        say(f"starting {len(job.parties)} trainers with {job.threads} threads each")
        job = start_trainers(job, trainers)
        if state is None:
            write_state(path, State(0, job.settings, [], _ask_host(job, trainers, {"do": "weights"})))
        if job.start_round < job.rounds:
            say("starting Flower")

            def report(entry: dict[str, Any]) -> None:
                losses = ", ".join(f"{name} {sum(v) / len(v):.4f}" for name, v in entry["losses"].items())
                say(f"round {entry['round']}/{job.rounds}: loss {losses} ({entry['seconds']:.0f} s)")

            run_rounds(job, report, trainers.check)
        state = read_state(path)
        _ask_host(job, trainers, {"do": "checkpoint", "path": os.path.join(fold_folder, FINAL)}, state.weights)
    _write_model(job, state, output_folder, fold_folder)
    tidy(job, WEIGHTS_FILE)
    say(f"{fold_folder} is finished")


def _ask_host(job: Job, trainers: Processes, question: dict[str, Any],
              weights: dict[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
    """Ask the host's trainer. Raises StitchError if it ended over it."""
    try:
        return wire.ask(job.trainers[0], job.key, question, weights)[1]
    except (EOFError, OSError) as error:
        name = f"trainer_{job.parties[0].name}"
        trainers.running[name].wait()
        raise trainers.failure(f"process {name} ended", name) from error


def _write_model(job: Job, state: State, output_folder: str, fold_folder: str) -> None:
    """What belongs beside the checkpoint. federated.json comes last: it says that all is there."""
    write_files_beside(job, output_folder)
    training_curve(state.history, os.path.join(fold_folder, CURVE_FILE))
    cases = state.history[-1]["cases"]
    write_json(os.path.join(fold_folder, RECORD_FILE), {
        "settings": job.settings, "device": job.device,
        "aggregation": "FedAvg: mean of the parties' weights, weighted by their numbers of training cases",
        "cases": cases, "shares": {name: n / sum(cases.values()) for name, n in cases.items()},
        "rounds": [{key: entry[key] for key in ("round", "losses", "seconds")} for entry in state.history],
        "versions": versions(),
    })
