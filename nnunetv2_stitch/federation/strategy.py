"""A Flower strategy for guided merging in which a slow or silent party holds nobody up."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import DEFAULT_TTL, Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from nnunetv2_stitch.federation.buffer import ModelBuffer, PartyModel
from nnunetv2_stitch.federation.centre_search import Merged
from nnunetv2_stitch.federation.replies import ARRAYS, CONFIG, read_model
from nnunetv2_stitch.federation.round_summary import NODE

Merge = Callable[[Mapping[str, np.ndarray], Sequence[PartyModel], int], Merged]


@dataclass(frozen=True)
class Question:
    """To whom a global model was sent, and in which round."""

    node: int
    round: int


class GuidedMerging(Strategy):
    """Rounds with a deadline. In each, the global model goes to every party that is not busy with an earlier one; then
    the models that have come by the deadline, late ones of earlier rounds, and the latest of all who are silent are
    merged by the centre. `timeout` of `start` is the deadline: seconds from the beginning of a round.

    - A round ends before its deadline when all who were asked in it have answered or failed, or a `quorum` has sent
      models; but never with failures alone.
    - A party that has not answered is not asked again until it answers or fails, or until its message expires
      (`forget_after`). Flower tells of the failure of a node about a minute after its last sign of life.
    - A model is merged while it is the latest of its party, unless it is older than `max_age` rounds.
    - Fewer than two models, or none that is new: the global model stays, and the round's `remark` says so.

    What a party must send: `arrays` with names and shapes of the global model, `metrics` with `num-examples`, `config`
    with its `name` (letters, digits, _ and -) and, if it likes, `losses`. Anything else counts as a failure. It finds
    the round's number in the `config` that it gets.

    Args:
        merge: what the centre does, e.g. a `CentreSearch`.
        quorum: models after which a round ends; None waits for all who were asked.
        nodes: the only nodes to ask; None asks all that are connected.
        rounds_done, models: where an interrupted training goes on.
        on_round: receives each round's entry, the global model and the models that the centre holds.
        poll_seconds: between two looks for answers.
    """

    def __init__(self, merge: Merge, *, quorum: int | None = None, max_age: int | None = None,
                 forget_after: float = DEFAULT_TTL, nodes: Collection[int] | None = None, rounds_done: int = 0,
                 models: Iterable[PartyModel] = (),
                 on_round: Callable[[dict[str, Any], dict[str, np.ndarray], list[PartyModel]], None] = lambda *_: None,
                 poll_seconds: float = 1.0):
        self.merge, self.quorum, self.forget_after, self.nodes = merge, quorum, forget_after, nodes
        self.rounds_done, self.on_round, self.poll_seconds = rounds_done, on_round, poll_seconds
        self.buffer = ModelBuffer(models, max_age)
        self.entry: dict[str, Any] = {}  # of the last round
        self._global: dict[str, np.ndarray] = {}
        self._open: dict[str, Question] = {}  # by the message's id
        self._answered: dict[str, Question] = {}
        self._names: dict[int, str] = {}  # what nodes call themselves
        self._connected: list[int] = []

    def summary(self) -> None:
        """Nothing to say; see `on_round`."""

    def start(self, grid: Grid, initial_arrays: ArrayRecord, num_rounds: int = 3, timeout: float = 3600,
              train_config: ConfigRecord | None = None, evaluate_config: ConfigRecord | None = None,
              evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None) -> Result:
        """Run `num_rounds` rounds of at most `timeout` seconds each, beside what the centre needs to merge."""
        result, arrays = Result(), initial_arrays
        result.arrays = arrays

        def evaluate(number: int) -> None:
            measured = evaluate_fn(number, result.arrays) if evaluate_fn is not None else None
            if measured is not None:
                result.evaluate_metrics_serverapp[number] = measured

        evaluate(self.rounds_done)
        for number in range(self.rounds_done + 1, self.rounds_done + num_rounds + 1):
            began = time.monotonic()
            config = ConfigRecord(dict(train_config or {}))
            replies = self._wait(grid, number, arrays, config, began + timeout)
            waited = time.monotonic() - began
            merged, metrics = self.aggregate_train(number, replies)
            arrays = merged if merged is not None else arrays
            result.arrays = arrays
            if metrics is not None:
                result.train_metrics_clientapp[number] = metrics
            evaluate(number)
            self.rounds_done = number
            self.entry |= {"waited": round(waited, 1), "seconds": round(time.monotonic() - began, 1)}
            self.on_round(self.entry, self._global, self.buffer.models(number))
        return result

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord,
                        grid: Grid) -> Iterable[Message]:
        """The global model for every connected party that is not busy."""
        self._global = {name: array.numpy() for name, array in arrays.items()}
        self._connected = [n for n in grid.get_node_ids() if self.nodes is None or n in self.nodes]
        config["round"] = server_round
        busy = {q.node for q in self._open.values()}
        content = RecordDict({ARRAYS: arrays, CONFIG: config})
        return [Message(content, message_type=MessageType.TRAIN, dst_node_id=node, ttl=self.forget_after)
                for node in self._connected if node not in busy]

    def aggregate_train(self, server_round: int,
                        replies: Iterable[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Put the models into the buffer and merge what is there; None if the global model stays."""
        came, failed = {}, {}
        for reply in replies:
            question = self._answered.pop(reply.metadata.reply_to_message_id)
            try:
                model = read_model(reply, question.round, self._global)
                self._introduce(question.node, model.party)
            except ValueError as error:
                failed[self._name(question.node)] = str(error)
                continue
            came[model.party] = model
            self.buffer.put(model)
        models = self.buffer.models(server_round)
        self.entry = {
            "round": server_round, "answered": sorted(came), "failed": failed,
            "late": sorted(name for name, m in came.items() if m.age(server_round)),
            "waiting_for": sorted(self._name(q.node) for q in self._open.values()),
            "models": [m.to_json(server_round) for m in models], "remark": "", "merge": None,
        }
        if not came or len(models) < 2:
            what = "no new model came" if not came else f"only {models[0].party} has sent a model so far" if models \
                else f"what came is older than {self.buffer.max_age} rounds"
            self.entry["remark"] = f"{what}, so the global model stays as it is"
            return None, None
        merged = self.merge(self._global, models, server_round)
        self._global, self.entry["merge"] = merged.weights, merged.record
        scores = merged.record.get("scores", {})
        metrics = {"models": len(models)}
        if merged.record.get("chosen") in scores:
            metrics["score"] = float(scores[merged.record["chosen"]])
        return ArrayRecord({n: Array(a) for n, a in merged.weights.items()}), MetricRecord(metrics)

    def configure_evaluate(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord,
                           grid: Grid) -> Iterable[Message]:
        """Nobody is asked: the centre's data decide."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Nothing, as nobody was asked."""
        return None

    def _wait(self, grid: Grid, number: int, arrays: ArrayRecord, config: ConfigRecord,
              deadline: float) -> list[Message]:
        """Ask, and collect what comes until the round ends."""
        replies = self._pull(grid)  # who has answered since the last round is free again
        asked = self._ask(grid, number, arrays, config)
        while True:
            replies += self._pull(grid)
            models = sum(not r.has_error() for r in replies)
            left = deadline - time.monotonic()
            if left <= 0 or models and (models >= (self.quorum or float("inf")) or not asked & self._open.keys()):
                return replies
            if not self._open and not replies:  # nobody was there, or not any more
                asked |= self._ask(grid, number, arrays, config)
            time.sleep(max(0.0, min(self.poll_seconds, left)))

    def _ask(self, grid: Grid, number: int, arrays: ArrayRecord, config: ConfigRecord) -> set[str]:
        """The ids of the messages that were sent."""
        messages = list(self.configure_train(number, arrays, config, grid))
        ids = list(grid.push_messages(messages)) if messages else []
        sent = {i: Question(m.metadata.dst_node_id, number) for i, m in zip(ids, messages) if i}
        self._open |= sent
        return set(sent)

    def _pull(self, grid: Grid) -> list[Message]:
        """Answers to open questions, also those by which Flower tells of a failure."""
        found = list(grid.pull_messages(list(self._open))) if self._open else []
        for reply in found:
            answered = reply.metadata.reply_to_message_id
            self._answered[answered] = self._open.pop(answered)
        return found

    def _introduce(self, node: int, name: str) -> None:
        """Raises ValueError if another node that is still connected goes by this name."""
        if any(n == name and other != node and other in self._connected for other, n in self._names.items()):
            raise ValueError(f"it calls itself {name}, as another party does")
        self._names[node] = name

    def _name(self, node: int) -> str:
        return self._names.get(node, f"{NODE}{node}")
