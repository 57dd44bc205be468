"""The centre's ServerApp: `GuidedMerging` with the centre's search, and every round on disk before the next."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp

from nnunetv2_stitch.devices import set_up_device
from nnunetv2_stitch.federation.buffer import PartyModel
from nnunetv2_stitch.federation.centre_search import CentreSearch
from nnunetv2_stitch.federation.data import dataset_folder, party_files
from nnunetv2_stitch.federation.figures import progress_curve
from nnunetv2_stitch.federation.output import CURVE_FILE, FINAL, finished, require_same, write_files_beside
from nnunetv2_stitch.federation.round_files import MODELS, keep_round, kept_models
from nnunetv2_stitch.federation.round_summary import summary
from nnunetv2_stitch.federation.settings import RoundsSettings, check_search, own_site, rounds_folder
from nnunetv2_stitch.federation.sharing import set_shared, shared_arrays
from nnunetv2_stitch.federation.state import WEIGHTS_FILE, State, read_state, write_state
from nnunetv2_stitch.federation.strategy import GuidedMerging
from nnunetv2_stitch.fileio import write_json
from nnunetv2_stitch.locks import FoldLocks
from nnunetv2_stitch.parties.checkpoint import load_checkpoint, load_weights, network_weights
from nnunetv2_stitch.parties.checkpoint_writing import untrained, write_checkpoint
from nnunetv2_stitch.provenance import versions
from nnunetv2_stitch.randomness import seed_everything
from nnunetv2_stitch.training.centre import Centre, opened

RECORD_FILE = "guided_rounds.json"
POLL_SECONDS = 0.5

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds that are left, and leave an ordinary nnU-Net model at the centre.

    Raises:
        StitchError: bad settings or data, or another run works in the folder.
    """
    settings = RoundsSettings.read(context.run_config)
    check_search(settings.search_settings, settings.deadline)
    folder = rounds_folder(settings.centre, settings.configuration)
    fold_folder = os.path.join(folder, f"fold_{settings.fold}")
    with FoldLocks(folder) as locks:
        locks.take([settings.fold])
        if not finished(fold_folder, settings.kept(), RECORD_FILE):
            _train(grid, settings, folder, fold_folder)
    _say(f"{fold_folder} is finished")


def _train(grid: Grid, settings: RoundsSettings, folder: str, fold_folder: str) -> None:
    work = os.path.join(fold_folder, "federated")
    set_up_device(settings.centre_device)
    seed_everything(settings.seed)
    site = own_site(dataset_folder(settings.centre), settings.configuration, settings.fold, settings.centre_plans)
    with opened(site, torch.device(settings.centre_device)) as centre:
        state = _begun(settings, work, centre)

        def on_round(entry: dict[str, Any], weights: dict[str, np.ndarray], models: list[PartyModel]) -> None:
            nonlocal state
            state = keep_round(work, state, entry, weights, models)
            _say(f"round {entry['round']}/{settings.rounds}: {summary(entry)}")

        if state.round < settings.rounds:
            _wait_for_parties(grid, settings.parties)
            waiting = {k: v for k, v in settings.waiting.items() if k != "deadline"}
            strategy = GuidedMerging(
                CentreSearch(centre, settings.search_settings), **waiting, rounds_done=state.round,
                models=kept_models(work, state), on_round=on_round, poll_seconds=POLL_SECONDS)
            strategy.start(grid, ArrayRecord({n: Array(a) for n, a in state.weights.items()}),
                           num_rounds=settings.rounds - state.round, timeout=settings.deadline,
                           train_config=ConfigRecord({"training": state.settings["training"]}))
        set_shared(centre.network, state.weights, "the centre")
        tensors = {k: v.detach().cpu().clone() for k, v in centre.network.state_dict().items()}
        mirroring = centre.trainer.inference_allowed_mirroring_axes
    write_checkpoint(os.path.join(fold_folder, FINAL),
                     untrained(tensors, site.configuration, site.fold, mirroring))
    write_files_beside(dataset_folder(settings.centre), party_files(settings.centre)[0], folder)
    progress_curve(state.history, os.path.join(fold_folder, CURVE_FILE))
    write_json(os.path.join(fold_folder, RECORD_FILE), {  # last: it says that all is there
        "settings": state.settings, "waiting": settings.waiting, "device": settings.centre_device,
        "aggregation": "guided model merging: coefficients searched on the centre's data, in every round",
        "rounds": state.history, "versions": versions("numpy", "flwr")})
    shutil.rmtree(os.path.join(work, MODELS), ignore_errors=True)
    os.remove(os.path.join(work, WEIGHTS_FILE))


def _begun(settings: RoundsSettings, work: str, centre: Centre) -> State:
    """Where the training stands; a new one gets a name, by which the parties know their states of it."""
    path = os.path.join(work, WEIGHTS_FILE)
    if os.path.isfile(path):
        state = read_state(path)
        require_same(state.settings, settings.kept(), path)
        _say(f"going on after round {state.round} of {settings.rounds}")
        return state
    if settings.start:
        load_weights(centre.network, network_weights(load_checkpoint(settings.start)), settings.start)
    state = State(0, {**settings.kept(), "training": secrets.token_hex(8)}, [], shared_arrays(centre.network))
    write_state(path, state)
    return state


def _wait_for_parties(grid: Grid, count: int) -> None:
    connected = -1
    while connected < count:
        if connected != (connected := len(list(grid.get_node_ids()))):
            _say(f"{connected} of {count} parties are connected")
        if connected < count:
            time.sleep(POLL_SECONDS)


def _say(line: str) -> None:
    """`flwr log`, or `flwr run --stream`, shows what is printed."""
    print(line, flush=True)
