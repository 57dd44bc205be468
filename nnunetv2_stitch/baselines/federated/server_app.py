"""The server: Flower's FedAvg, with every party in every round, and every round on disk before the next begins."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from nnunetv2_stitch.baselines.federated.job import Job
from nnunetv2_stitch.baselines.federated.reporting import all_nodes, launcher_told
from nnunetv2_stitch.baselines.federated.state import WEIGHTS_FILE, State, read_state, write_state

ROUND_SECONDS = 30 * 24 * 3600  # Flower drops messages after 12 hours unless told otherwise; a local epoch may be long

app = ServerApp()


class RecordedFedAvg(FedAvg):
    """FedAvg weighted by the number of training cases, that goes on only with the weights of all parties.

    Flower's own FedAvg averages what it gets: without a party that failed, the result would be another experiment.
    """

    def __init__(self, job: Job, state: State, report: Callable[[dict[str, Any]], None]):
        parties = len(job.parties)
        super().__init__(fraction_evaluate=0.0, min_train_nodes=parties, min_available_nodes=parties)
        self.job, self.state, self.report = job, state, report
        self.started = time.monotonic()

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord,
                        grid: Grid) -> Iterable[Message]:
        """The averaged weights and the number of the round, to all parties."""
        self.started = time.monotonic()
        nodes = all_nodes(grid, len(self.job.parties))
        config["round"] = self.state.round + 1
        content = RecordDict({self.arrayrecord_key: arrays, self.configrecord_key: config})
        return [Message(content, message_type=MessageType.TRAIN, dst_node_id=node, ttl=ROUND_SECONDS)
                for node in nodes]

    def aggregate_train(self, server_round: int,
                        replies: Iterable[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average, and write the round down."""
        number = self.state.round + 1
        replies = list(replies)
        errors = [" ".join(str(m.error.reason).split()) for m in replies if m.has_error()]
        if errors:
            raise RuntimeError(f"a party failed in round {number}: {errors[0]}")
        replies.sort(key=_party)  # sums of floating-point numbers depend on the order, which is that of arrival
        if [_party(m) for m in replies] != list(range(len(self.job.parties))):
            raise RuntimeError(f"round {number} lacks a party's weights")
        arrays, metrics = super().aggregate_train(server_round, replies)
        names = [p.name for p in self.job.parties]
        entry = {"round": number, "seconds": round(time.monotonic() - self.started, 1),
                 "losses": {n: list(m.content["config"]["losses"]) for n, m in zip(names, replies)},
                 "cases": {n: int(m.content["metrics"]["num-examples"]) for n, m in zip(names, replies)}}
        weights = {name: array.numpy() for name, array in arrays.items()}
        self.state = replace(self.state, round=number, history=[*self.state.history, entry], weights=weights)
        write_state(os.path.join(self.job.folder, WEIGHTS_FILE), self.state)
        self.report(entry)
        return arrays, metrics


def _party(message: Message) -> int:
    return int(message.content["config"]["party"])


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds that are left, and tell the launcher of each, of an error and of the end."""
    job = Job.of_this_process()
    with launcher_told(job) as report:
        state = read_state(os.path.join(job.folder, WEIGHTS_FILE))
        strategy = RecordedFedAvg(job, state, report)
        strategy.start(grid, ArrayRecord({n: Array(a) for n, a in state.weights.items()}),
                       num_rounds=job.rounds - state.round, timeout=ROUND_SECONDS)
