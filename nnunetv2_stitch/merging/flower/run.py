"""Guided merging in rounds from end to end: start the processes, follow the rounds, leave an ordinary nnU-Net model."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

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
from nnunetv2_stitch.baselines.federated.sharing import set_shared, shared_arrays
from nnunetv2_stitch.baselines.federated.state import WEIGHTS_FILE, State, read_state, write_state
from nnunetv2_stitch.fileio import atomically, write_json
from nnunetv2_stitch.merging.centre import opened
from nnunetv2_stitch.merging.flower.centre_search import SearchSettings
from nnunetv2_stitch.merging.flower.curve import progress_curve
from nnunetv2_stitch.merging.flower.job import SERVER, check_search, site_of
from nnunetv2_stitch.merging.flower.keeping import MODELS
from nnunetv2_stitch.merging.flower.telling import told
from nnunetv2_stitch.merging.output import save_checkpoint
from nnunetv2_stitch.parties.checkpoint import load_checkpoint, load_weights, network_weights, sha256
from nnunetv2_stitch.randomness import seed_everything

RECORD_FILE = "guided_rounds.json"


def guided_merging_rounds(parties: Sequence[FederatedParty], configuration: str, fold: int | str, output_folder: str,
                          rounds: int, deadline: float, *, quorum: int | None = None, max_age: int | None = None,
                          start: str | None = None, epochs_per_round: int = 1, iterations: int | None = None,
                          granularity: str = "stage", search: str = "gradient", steps: int = 100, rate: float = 0.05,
                          surrogate: str = "auto", seed: int = 12345, device: str = "cpu", resume: bool = False,
                          say: Callable[[str], None] = lambda line: None) -> None:
    """Train one network on several parties' data by guided model merging in rounds, with Flower on this machine.

    The processes are those of `federated_averaging`. In a round every party that is not busy trains on from the global
    model; the centre, which is the first party, waits for models until the deadline, searches merging coefficients for
    all that it holds on its own data, and the merged model is the next global one. A party that is slow takes part with
    the model it sends later, one that has ended or is silent with the last it sent, if any. See `GuidedMerging` for the
    rounds and `CentreSearch` for the search.

    Leaves in `output_folder` what `federated_averaging` leaves, with guided_rounds.json instead of federated.json.

    Args:
        parties: the first is the centre, which also trains.
        output_folder: see `guided_rounds_folder`.
        deadline: seconds that a round waits for models at most.
        quorum: models after which a round does not wait any longer; None waits for all who were asked.
        max_age: models older than this many rounds do not take part; None for any age.
        start: checkpoint that all begin with; None for nnU-Net's initialisation.
        iterations: training steps per epoch; None for nnU-Net's own 250.
        granularity, search, steps, rate, surrogate: as the flags of nnUNetv2_merge_party.
        device: `cpu`, `cuda` or `mps`; all trainers and the search share it.
        resume: go on after the last finished round of an interrupted training; what a party was training then is lost,
            what the centre held is not. `deadline`, `quorum` and `max_age` may be others than before.
        say: receives one line per step and round.

    Raises:
        StitchError: bad input; or the server or all parties have ended. No process is left behind, also on Ctrl-C.
    """
    require_flower()
    settings = SearchSettings(granularity, search, steps, rate, surrogate, seed)
    check_search(settings, deadline, quorum, max_age)
    preprocessed = check_request(parties, configuration, fold, rounds, epochs_per_round, iterations)
    fold_folder = fold_folder_of(output_folder, fold, resume)
    search_settings = {k: v for k, v in asdict(settings).items() if k != "seed"}
    job = Job(parties=tuple(parties), configuration=configuration, fold=fold, rounds=rounds,
              epochs_per_round=epochs_per_round, iterations=iterations, seed=seed, device=device,
              threads=threads_for_each(len(parties)), preprocessed=preprocessed,
              folder=os.path.join(fold_folder, "federated"), scratch="", key=secrets.token_hex(32), server=SERVER,
              options={**search_settings, "start": None if start is None else sha256(start)},
              waiting={"deadline": deadline, "quorum": quorum, "max_age": max_age}, may_miss=True)
    with alone(job.folder):
        if finished(fold_folder, job, RECORD_FILE):
            say(f"{fold_folder} is finished")
            return
        # Short and private: it holds the run's key.
        with tempfile.TemporaryDirectory(prefix="guided_", ignore_cleanup_errors=True) as scratch:
            state = _run(replace(job, scratch=scratch), start, say)
        _write_model(job, state, os.path.abspath(output_folder), fold_folder)
        shutil.rmtree(os.path.join(job.folder, MODELS), ignore_errors=True)
        tidy(job, WEIGHTS_FILE)
    say(f"{fold_folder} is finished")


def _run(job: Job, start: str | None, say: Callable[[str], None]) -> State:
    """All rounds that are left; the state after the last."""
    path = os.path.join(job.folder, WEIGHTS_FILE)
    if os.path.isfile(path):
        state = read_state(path)
        require_same(state.settings, job, path)
        job = replace(job, start_round=state.round)
        say(f"going on after round {state.round} of {job.rounds}")
    else:
        write_state(path, _first_state(job, start))
    if job.start_round < job.rounds:
        with Processes(job.logs, job.scratch) as trainers:
            say(f"starting {len(job.parties)} trainers with {job.threads} threads each")
            job = start_trainers(job, trainers)
            say("starting Flower")
            run_rounds(job, lambda entry: say(f"round {entry['round']}/{job.rounds}: {told(entry)}"),
                       _watch(job, trainers, say))
    return read_state(path)


def _watch(job: Job, trainers: Processes, say: Callable[[str], None]) -> Callable[[], None]:
    """What is called again and again while the rounds run: the others go on without a trainer that has ended.

    Raises:
        StitchError: none is left.
    """
    gone: set[str] = set()

    def check() -> None:
        for name in set(trainers.ended()) - gone:
            gone.add(name)
            say(f"process {name} ended ({trainers.ending(name)}); the others go on without it; see "
                f"{trainers.log(name)}")
            if len(gone) == len(job.parties):
                raise trainers.lost(name)
    return check


def _first_state(job: Job, start: str | None) -> State:
    """The global model before the first round."""
    seed_everything(job.seed)
    with opened(site_of(job), torch.device("cpu")) as centre:
        if start is not None:
            load_weights(centre.network, network_weights(load_checkpoint(start)), start)
        return State(0, job.settings, [], shared_arrays(centre.network))


def _write_model(job: Job, state: State, output_folder: str, fold_folder: str) -> None:
    """The model, and what belongs beside it. The record comes last: it says that all is there."""
    site = site_of(job)
    with opened(site, torch.device("cpu")) as centre:
        set_shared(centre.network, state.weights, "the centre")
        tensors = {k: v.detach().clone() for k, v in centre.network.state_dict().items()}
        mirroring = centre.trainer.inference_allowed_mirroring_axes
    atomically(os.path.join(fold_folder, FINAL), lambda temporary: save_checkpoint(temporary, site, tensors, mirroring))
    write_files_beside(job, output_folder)
    progress_curve(state.history, os.path.join(fold_folder, CURVE_FILE))
    record: dict[str, Any] = {
        "settings": job.settings, "waiting": job.waiting, "device": job.device,
        "aggregation": "guided model merging: coefficients searched on the centre's data, in every round",
        "rounds": state.history, "versions": versions()}
    write_json(os.path.join(fold_folder, RECORD_FILE), record)
