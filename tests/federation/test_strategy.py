"""The rounds of the Flower strategy without Flower's processes: parties answer when the test says so, by a clock that
only sleeping moves on."""

import numpy as np
import pytest

pytest.importorskip("flwr", reason="Flower (flwr) is not installed; it needs Python 3.11 or newer")

from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict  # noqa: E402
from flwr.serverapp import Grid  # noqa: E402
from flwr.supercore.task_identity import TaskIdentity  # noqa: E402

from nnunetv2_stitch.federation import strategy as strategy_module  # noqa: E402
from nnunetv2_stitch.federation.buffer import fedavg_weights  # noqa: E402
from nnunetv2_stitch.federation.centre_search import Merged  # noqa: E402
from nnunetv2_stitch.federation.round_summary import summary  # noqa: E402
from nnunetv2_stitch.federation.strategy import GuidedMerging  # noqa: E402

DEADLINE, NEVER = 10, None
NAMES = {1: "A", 2: "B", 3: "C"}


class Clock:
    now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


clock = Clock()


@pytest.fixture(autouse=True)
def a_server_task(monkeypatch):
    """What Flower sets in the process of a ServerApp before it runs it; and the clock."""
    monkeypatch.setattr(strategy_module, "time", clock)
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


class Parties(Grid):
    """Each node answers its n-th message after the n-th of its delays, in seconds; `NEVER`, or an error as a text."""

    run = None

    def __init__(self, delays, **changes):
        self.delays = {node: list(values) for node, values in delays.items()}
        self.changes, self.asked, self.due = changes, [], {}

    def set_run(self, run):
        raise NotImplementedError

    create_message = send_and_receive = set_run  # the strategy needs neither

    def get_node_ids(self):
        return list(self.delays)

    def push_messages(self, messages):
        for message in messages:
            node, identity = message.metadata.dst_node_id, f"m{len(self.asked)}"
            message.metadata.__dict__["_message_id"] = identity
            self.asked.append((node, message.content["config"]["round"]))
            delay = self.delays[node].pop(0) if self.delays[node] else NEVER
            if delay is not NEVER:
                failed = isinstance(delay, str)
                self.due[identity] = (clock.now + (0 if failed else delay),
                                      Message(Error(1, delay), reply_to=message) if failed else self.answer(message))
            yield identity

    def answer(self, message):
        """The weights that came plus the node's number."""
        node = message.metadata.dst_node_id
        weights = {n: a.numpy() + np.float32(node) for n, a in message.content["arrays"].items()}
        content = {"arrays": weights, "cases": 10 * node, "name": NAMES[node], **self.changes.get(NAMES[node], {})}
        return Message(RecordDict({
            "arrays": ArrayRecord({n: Array(a) for n, a in content["arrays"].items()}),
            "metrics": MetricRecord({"num-examples": content["cases"]}),
            "config": ConfigRecord({"name": content["name"], "losses": [0.5]})}), reply_to=message)

    def pull_messages(self, message_ids):
        ready = [i for i in message_ids if i in self.due and self.due[i][0] <= clock.now]
        return [self.due.pop(i)[1] for i in ready]


def mean(base, models, number):
    """A merge by FedAvg's weights."""
    weights = {n: sum(s * m.weights[n] for s, m in zip(fedavg_weights(models, number), models)).astype(np.float32)
               for n in base}
    return Merged(weights, {"chosen": "mean", "scored_by": "Dice", "scores": {"mean": 0.5}})


def rounds(delays, count=1, grid=None, deadline=DEADLINE, **options):
    """The entries, the last global weight, the grid."""
    grid, entries, weights = grid or Parties(delays), [], {}

    def on_round(entry, now, models):
        entries.append(entry)
        weights.update(now)

    strategy = GuidedMerging(options.pop("merge", mean), on_round=on_round, poll_seconds=1, **options)
    result = strategy.start(grid, ArrayRecord({"a.weight": Array(np.zeros(2, np.float32))}), count, deadline)
    np.testing.assert_array_equal(result.arrays["a.weight"].numpy(), weights["a.weight"])
    return entries, float(weights["a.weight"][0]), grid


def test_a_round_ends_when_all_have_answered():
    (entry,), weight, _ = rounds({1: [0], 2: [3]})
    assert entry["answered"] == ["A", "B"] and entry["waited"] == 3 and not entry["waiting_for"]
    assert weight == pytest.approx((1 * 10 + 2 * 20) / 30)


def test_a_silent_party_is_waited_for_once_and_never_asked_again():
    entries, _, grid = rounds({1: [0] * 3, 2: [0] * 3, 3: [NEVER]}, 3)
    assert [e["waited"] for e in entries] == [DEADLINE, 0, 0]
    assert [n for n, _ in grid.asked].count(3) == 1 and all(e["answered"] == ["A", "B"] for e in entries)
    assert entries[2]["waiting_for"] == ["node 3"] and "1 not heard of so far" in summary(entries[2])


def test_a_late_model_takes_part_later_with_its_age_and_its_party_is_asked_again():
    grid = Parties({1: [0, 5, 0], 2: [DEADLINE + 2, 0]})
    entries, _, _ = rounds(None, 3, grid)
    first, second, third = entries
    assert first["answered"] == ["A"] and "only A has sent a model" in first["remark"] and first["merge"] is None
    assert second["late"] == ["B"] and {m["party"]: m["age"] for m in second["models"]} == {"A": 0, "B": 1}
    assert "B late (1 round old)" in summary(second)
    assert third["answered"] == ["A", "B"] and not third["late"] and (2, 3) in grid.asked and (2, 2) not in grid.asked


def test_an_old_model_counts_less_at_the_start_until_it_is_too_old():
    delays = {1: [0] * 4, 2: [0, "it broke"], 3: [0] * 4}
    entries, _, _ = rounds(delays, 3)
    assert [{m["party"]: m["age"] for m in e["models"]}["B"] for e in entries] == [0, 1, 2]
    assert entries[1]["failed"] == {"B": "it broke"} and entries[1]["waited"] == 0
    assert "held from before: B (1 round old)" in summary(entries[1])
    entries, _, _ = rounds(delays, 3, max_age=1)
    assert [[m["party"] for m in e["models"]] for e in entries] == [["A", "B", "C"]] * 2 + [["A", "C"]]


def test_shares_fall_with_age():
    seen = []
    rounds({1: [0] * 2, 2: [0]}, 2, merge=lambda b, m, n: seen.append(fedavg_weights(m, n)) or mean(b, m, n))
    assert seen == [[pytest.approx(1 / 3), pytest.approx(2 / 3)], [pytest.approx(1 / 2), pytest.approx(1 / 2)]]


def test_a_quorum_ends_a_round():
    (entry,), _, _ = rounds({1: [0], 2: [4], 3: [6]}, quorum=2)
    assert entry["answered"] == ["A", "B"] and entry["waited"] == 4


def test_without_any_answer_the_global_model_stays_and_the_deadline_is_kept():
    entries, weight, grid = rounds({1: [NEVER], 2: ["broken", "broken"]}, 2)
    assert weight == 0 and [e["waited"] for e in entries] == [DEADLINE] * 2 and \
        all("no new model came" in e["remark"] for e in entries)
    assert sum(n == 2 for n, _ in grid.asked) == 2 and "the global model stays" in summary(entries[0])


def test_who_connects_while_nobody_is_there_is_asked():
    grid, began = Parties({}), clock.now
    grid.get_node_ids = lambda: list(grid.delays) if clock.now >= began + 7 else []
    grid.delays = {1: [0], 2: [0]}
    (entry,), _, _ = rounds(None, 1, grid)
    assert entry["answered"] == ["A", "B"] and entry["waited"] == 8  # a look later


def test_only_the_nodes_that_were_named_are_asked():
    _, _, grid = rounds({1: [0], 2: [0], 3: [0]}, nodes=[1, 2])
    assert {n for n, _ in grid.asked} == {1, 2}


@pytest.mark.parametrize(("changes", "reason"), [
    ({"arrays": {"a.weight": np.zeros(3, np.float32)}}, "its tensor a.weight is not that of the global model"),
    ({"arrays": {"b.weight": np.zeros(2, np.float32)}}, "its tensor a.weight is not"),
    ({"arrays": {"a.weight": np.full(2, np.nan, np.float32)}}, "not all finite"),
    ({"arrays": {"a.weight": np.zeros(2, np.int64)}}, "not all finite numbers"),
    ({"cases": 0}, "it says that it has 0 cases"), ({"cases": 1.5}, "it says that it has 1.5 cases"),
    ({"name": "../B"}, "not made of letters"), ({"name": "A"}, "it calls itself A, as another party does"),
])
def test_what_cannot_be_merged_is_left_out(changes, reason):
    (entry,), weight, _ = rounds(None, 1, Parties({1: [0], 2: [2], 3: [0]}, B=changes))
    assert entry["answered"] == ["A", "C"] and reason in entry["failed"]["node 2"]
    assert weight == pytest.approx((1 * 10 + 3 * 30) / 40)


def test_going_on_with_the_models_of_before():
    held = []
    strategy = GuidedMerging(mean, on_round=lambda e, w, models: held.extend(models), poll_seconds=1)
    start = ArrayRecord({"a.weight": Array(np.zeros(2, np.float32))})
    seen = []
    grid = Parties({1: [0], 2: [0]})
    result = strategy.start(grid, start, 1, DEADLINE, evaluate_fn=lambda number, arrays: seen.append(
        (number, float(arrays["a.weight"].numpy()[0]))))
    assert seen == [(0, 0), (1, pytest.approx(5 / 3))] and result.train_metrics_clientapp[1]["score"] == 0.5
    entries, _, grid = rounds({1: [0]}, 2, rounds_done=1, models=held)
    assert [e["round"] for e in entries] == [2, 3] and grid.asked == [(1, 2), (1, 3)]
    assert {m["party"]: m["age"] for m in entries[0]["models"]} == {"A": 0, "B": 1}
