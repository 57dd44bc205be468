"""The server on one machine: `GuidedMerging` with the centre's search, and every round on disk before the next."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp

from nnunetv2_stitch.baselines.federated.job import Job
from nnunetv2_stitch.baselines.federated.reporting import all_nodes, launcher_told
from nnunetv2_stitch.baselines.federated.state import WEIGHTS_FILE, read_state
from nnunetv2_stitch.devices import set_up_device
from nnunetv2_stitch.merging.centre import opened
from nnunetv2_stitch.merging.flower.buffer import PartyModel
from nnunetv2_stitch.merging.flower.centre_search import CentreSearch, SearchSettings
from nnunetv2_stitch.merging.flower.job import site_of
from nnunetv2_stitch.merging.flower.keeping import keep_round, kept_models
from nnunetv2_stitch.merging.flower.strategy import GuidedMerging

POLL_SECONDS = 0.5

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds that are left, and tell the launcher of each, of an error and of the end."""
    job = Job.of_this_process()
    with launcher_told(job) as report:
        set_up_device(job.device, threads=job.threads)
        state = read_state(os.path.join(job.folder, WEIGHTS_FILE))

        def on_round(entry: dict[str, Any], weights: dict[str, np.ndarray], models: list[PartyModel]) -> None:
            nonlocal state
            state = keep_round(job, state, entry, weights, models)
            report(entry)

        with opened(site_of(job), torch.device(job.device)) as centre:
            settings = SearchSettings(**{k: v for k, v in job.options.items() if k != "start"}, seed=job.seed)
            strategy = GuidedMerging(
                CentreSearch(centre, settings), quorum=job.waiting["quorum"], max_age=job.waiting["max_age"],
                rounds_done=state.round, models=kept_models(job, state),
                nodes=all_nodes(grid, len(job.parties)), on_round=on_round, poll_seconds=POLL_SECONDS)
            strategy.start(grid, ArrayRecord({n: Array(a) for n, a in state.weights.items()}),
                           num_rounds=job.rounds - state.round, timeout=job.waiting["deadline"])
