"""Federated averaging of nnU-Net trainings in one process: the baseline that exchanges weights in every round."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.federation.data import (
    FederatedParty,
    check_request,
    dataset_folder,
    model_folder,
    party_files,
    plans_to_train,
)
from nnunetv2_stitch.federation.figures import training_curve
from nnunetv2_stitch.federation.local import LocalTrainer, Schedule
from nnunetv2_stitch.federation.output import CURVE_FILE, FINAL, finished, require_same, write_files_beside
from nnunetv2_stitch.federation.state import WEIGHTS_FILE, State, read_state, write_state
from nnunetv2_stitch.fileio import write_json
from nnunetv2_stitch.folders import names_in
from nnunetv2_stitch.locks import FoldLocks
from nnunetv2_stitch.provenance import versions

TRAINER = "nnUNetTrainerFedAvg"
RECORD_FILE = "federated.json"


def federated_folder(host: FederatedParty, configuration: str) -> str:
    """The model folder where stock nnU-Net finds the result: nnUNet_results/HOST/nnUNetTrainerFedAvg__PLANS__CONFIG.

    Raises:
        StitchError: nnUNet_results is not set.
    """
    return model_folder(host, configuration, TRAINER)


def federated_averaging(parties: Sequence[FederatedParty], configuration: str, fold: int | str, output_folder: str,
                        rounds: int, epochs_per_round: int = 1, iterations: int | None = None, seed: int = 12345,
                        device: str = "cpu", resume: bool = False,
                        say: Callable[[str], None] = lambda line: None) -> None:
    """Train one network on several parties' data by FedAvg (McMahan et al. 2017, Algorithm 1).

    Each party has a trainer of its own, which sees only this party's dataset. All use the host's plans and start from
    the same weights. In a round each trains for `epochs_per_round` epochs, one after another; then their weights are
    averaged by their numbers of training cases. Optimizer state stays with the party; the learning rate falls over all
    rounds as in one nnU-Net training of `rounds * epochs_per_round` epochs.

    Leaves in `output_folder` an ordinary model folder: plans.json, dataset.json, dataset_fingerprint.json and fold_X
    with checkpoint_final.pth (trainer_name nnUNetTrainer, so stock prediction needs nothing of ours), federated.json
    and progress.png. fold_X/federated holds nnU-Net's logs, and until the end what is needed to go on.

    Args:
        parties: the first is the host.
        configuration, fold: as nnUNetv2_train takes them; each party has its own splits_final.json.
        output_folder: see `federated_folder`.
        iterations: training steps per epoch; None for nnU-Net's own 250.
        seed: of the first weights, and of each party's patches. With augmentation in the same process
            (nnUNet_n_proc_DA=0) on a CPU a training can be repeated.
        device: `cpu`, `cuda` or `mps`.
        resume: go on after the last finished round of an interrupted training; do nothing if it is finished.
        say: receives one line per step and round.

    Raises:
        StitchError: bad input, a training that diverged, or another command that works in the folder.
    """
    check_request(parties, configuration, rounds, epochs_per_round, iterations)
    schedule = Schedule(configuration, fold, rounds, epochs_per_round, iterations, seed)
    settings = {"parties": [asdict(p) for p in parties], **asdict(schedule), "fold": str(fold)}
    output_folder = os.path.abspath(output_folder)
    fold_folder = os.path.join(output_folder, f"fold_{fold}")
    if os.path.isdir(fold_folder) and names_in(fold_folder) and not resume:
        raise StitchError(f"{fold_folder} is not empty; resume=True goes on with the training in it, or delete it")
    with FoldLocks(output_folder) as locks:
        locks.take([fold])
        if not finished(fold_folder, settings, RECORD_FILE):
            _train(list(parties), schedule, settings, device, output_folder, fold_folder, say)
    say(f"{fold_folder} is finished")


def _train(parties: list[FederatedParty], schedule: Schedule, settings: dict[str, Any], device: str,
           output_folder: str, fold_folder: str, say: Callable[[str], None]) -> None:
    work = os.path.join(fold_folder, "federated")
    path = os.path.join(work, WEIGHTS_FILE)
    state = read_state(path) if os.path.isfile(path) else None
    if state is not None:
        require_same(state.settings, settings, path)
        say(f"going on after round {state.round} of {schedule.rounds}")
    trainers: dict[str, LocalTrainer] = {}
    try:
        for index, party in enumerate(parties):
            trainers[party.name] = _trainer(parties, index, schedule, work, device)
            say(f"{party.name} has {trainers[party.name].cases} training cases")
            trainers[party.name].load_state(state.round if state is not None else 0)
        host = trainers[parties[0].name]
        if state is None:
            state = State(0, settings, [], host.weights())
            write_state(path, state)
        while state.round < schedule.rounds:
            state = _round(trainers, state)
            write_state(path, state)
            entry = state.history[-1]
            losses = ", ".join(f"{name} {sum(v) / len(v):.4f}" for name, v in entry["losses"].items())
            say(f"round {state.round}/{schedule.rounds}: loss {losses} ({entry['seconds']:.0f} s)")
        host.write_checkpoint(os.path.join(fold_folder, FINAL), state.weights)
    finally:
        for trainer in trainers.values():
            trainer.close()
    _write_model(parties[0], state, device, output_folder, fold_folder)
    _tidy(work)


def _trainer(parties: Sequence[FederatedParty], index: int, schedule: Schedule, work: str,
             device: str) -> LocalTrainer:
    """The trainer of party number `index`: the host's plans, the party's data. Together the parties take as many
    processes for augmentation as one nnU-Net training."""
    from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
    party = parties[index]
    host_plans, _ = party_files(parties[0])
    workers = None if "nnUNet_n_proc_DA" in os.environ else get_allowed_n_proc_DA() // len(parties)
    return LocalTrainer(party.name, plans_to_train(party, schedule.configuration, host_plans), party_files(party)[1],
                        schedule, os.path.join(work, "parties", party.name), torch.device(device),
                        schedule.seed + 1 + index, workers)


def _round(trainers: Mapping[str, LocalTrainer], state: State) -> State:
    """Every party's local epochs from the common weights, and their mean."""
    began, number = time.monotonic(), state.round + 1
    losses, weights = {}, []
    for name, trainer in trainers.items():
        losses[name] = trainer.train(number, state.weights)
        weights.append(trainer.weights())
    cases = {name: trainer.cases for name, trainer in trainers.items()}
    entry = {"round": number, "seconds": round(time.monotonic() - began, 1), "losses": losses, "cases": cases}
    return replace(state, round=number, history=[*state.history, entry],
                   weights=averaged(weights, list(cases.values())))


def averaged(weights: Sequence[Mapping[str, np.ndarray]], cases: Sequence[int]) -> dict[str, np.ndarray]:
    """The mean of the parties' weights, weighted by their numbers of training cases, in the weights' own precision.
    The sum is taken in the parties' order, as sums of floating-point numbers depend on it."""
    shares = [n / sum(cases) for n in cases]
    rest = list(zip(weights[1:], shares[1:]))
    return {name: np.asarray(sum((w[name] * share for w, share in rest), start=first * shares[0]))
            for name, first in weights[0].items()}


def _write_model(host: FederatedParty, state: State, device: str, output_folder: str, fold_folder: str) -> None:
    """What belongs beside the checkpoint. federated.json comes last: it says that all is there."""
    write_files_beside(dataset_folder(host), party_files(host)[0], output_folder)
    training_curve(state.history, os.path.join(fold_folder, CURVE_FILE))
    cases = state.history[-1]["cases"]
    write_json(os.path.join(fold_folder, RECORD_FILE), {
        "settings": state.settings, "device": device,
        "aggregation": "FedAvg: mean of the parties' weights, weighted by their numbers of training cases",
        "cases": cases, "shares": {name: n / sum(cases.values()) for name, n in cases.items()},
        "rounds": [{key: entry[key] for key in ("round", "losses", "seconds")} for entry in state.history],
        "versions": versions("numpy"),
    })


def _tidy(work: str) -> None:
    """Keep nnU-Net's logs; weights and the parties' states are not needed any more."""
    os.remove(os.path.join(work, WEIGHTS_FILE))
    for folder, _, names in os.walk(os.path.join(work, "parties")):
        for name in names:
            if name.startswith(("state_", ".tmp")):
                os.remove(os.path.join(folder, name))
