"""Parts of guided merging in rounds that need no Flower: the centre's search, what is kept, what is refused."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import world as worlds

from nnunetv2_stitch.baselines.federated.job import FederatedParty, Job
from nnunetv2_stitch.baselines.federated.sharing import shared_arrays
from nnunetv2_stitch.baselines.federated.state import WEIGHTS_FILE, State, read_state
from nnunetv2_stitch.baselines.federated.trainer import LocalTrainer
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.merging.centre import opened
from nnunetv2_stitch.merging.flower.buffer import ModelBuffer, PartyModel
from nnunetv2_stitch.merging.flower.centre_search import PREVIOUS, CentreSearch, SearchSettings
from nnunetv2_stitch.merging.flower.curve import progress_curve
from nnunetv2_stitch.merging.flower.job import check_search, site_of
from nnunetv2_stitch.merging.flower.keeping import keep_round, kept_models
from nnunetv2_stitch.merging.guided import FEDAVG, GUIDED, choose
from nnunetv2_stitch.parties.checkpoint import load_checkpoint, load_weights, network_weights


@pytest.fixture
def job(world2d, nnunet_env, tmp_path):
    world = nnunet_env(world2d)
    return Job((FederatedParty("A", world.host.dataset, worlds.PLANS),) * 2, "2d", 0, 5, 1, 2, 1, "cpu", 1,
               str(world.preprocessed), str(tmp_path), str(tmp_path), "00", may_miss=True)


@pytest.mark.slow
def test_the_centre_writes_what_is_best_on_its_cases(job, world2d):
    with opened(site_of(job), torch.device("cpu")) as centre:
        path = str(world2d.model(world2d.host) / "fold_0" / "checkpoint_final.pth")
        load_weights(centre.network, network_weights(load_checkpoint(path)), path)
        base = shared_arrays(centre.network)
        rng = np.random.default_rng(0)
        noise = {n: 0.05 * rng.standard_normal(v.shape).astype(np.float32) for n, v in base.items()}
        # One is off by some noise and the other, who has more cases, by twice its opposite: the search can undo it.
        models = [PartyModel("A", 3, 4, {n: v + noise[n] for n, v in base.items()}),
                  PartyModel("B", 2, 16, {n: v - 2 * noise[n] for n, v in base.items()})]
        search = CentreSearch(centre, SearchSettings("model", steps=3, rate=0.1))
        merged = search(base, models, 3)
        record = merged.record
        scores = record["scores"]
        assert record["start"] == {"A": pytest.approx(1 / 3), "B": pytest.approx(2 / 3)}  # 4 / 1 and 16 / 2
        assert scores.keys() == {PREVIOUS, "A alone", "B alone", FEDAVG, GUIDED}
        assert scores[record["chosen"]] == max(scores.values()) and scores[GUIDED] >= scores[FEDAVG]
        c = {k: v[0] for k, v in record["coefficients"].items()}
        wanted = {GUIDED: c["A"] - 2 * c["B"], FEDAVG: 1 / 3 - 4 / 3, PREVIOUS: 0}[record["chosen"]]
        for name, value in merged.weights.items():
            np.testing.assert_allclose(value, base[name] + wanted * noise[name], atol=1e-5)
        assert search(base, models, 3).record == record, "the same round may be repeated"


def test_nothing_is_written_that_is_no_better():
    scores = {PREVIOUS: 0.9, "A alone": 0.5, FEDAVG: 0.8, GUIDED: 0.85}
    assert choose(scores, PREVIOUS) == PREVIOUS
    assert choose({**scores, GUIDED: 0.91}, PREVIOUS) == GUIDED
    assert choose({**scores, FEDAVG: 0.9, GUIDED: 0.9}, PREVIOUS) == FEDAVG


def test_an_earlier_model_does_not_replace_a_later_one():
    buffer = ModelBuffer([PartyModel("A", 3, 1, {})], max_age=2)
    buffer.put(PartyModel("A", 2, 1, {}))
    assert [m.asked_in for m in buffer.models(5)] == [3] and buffer.models(6) == []


def test_what_is_kept_between_rounds(job):
    def model(party, asked_in):
        return PartyModel(party, asked_in, 3, {"a": np.full(2, asked_in, np.float32)}, (0.5,))

    def entry(number, models):
        return {"round": number, "models": [m.to_json(number) for m in models], "merge": None}

    state, weights = State(0, job.settings, [], {}), {"a": np.zeros(2, np.float32)}
    assert kept_models(job, state) == []
    for number, models in ((1, [model("A", 1), model("B", 1)]), (2, [model("A", 2), model("B", 1)])):
        state = keep_round(job, state, entry(number, models), weights, models)
    again = read_state(os.path.join(job.folder, WEIGHTS_FILE))
    assert again.round == 2 and len(again.history) == 2
    kept = kept_models(job, again)
    assert [(m.party, m.asked_in, m.cases, m.losses) for m in kept] == [("A", 2, 3, (0.5,)), ("B", 1, 3, (0.5,))]
    np.testing.assert_array_equal(kept[0].weights["a"], np.full(2, 2))
    folder = Path(job.folder, "models")
    assert {p.name for p in folder.iterdir()} == {"A_00002.safetensors", "B_00001.safetensors"}
    (folder / "B_00001.safetensors").write_bytes(b"cut short")
    with pytest.raises(StitchError, match="B_00001.safetensors cannot be read"):
        kept_models(job, again)


@pytest.mark.slow
def test_a_trainer_may_miss_rounds_and_goes_on_with_its_last_state(job, monkeypatch):
    folder = job.party_folder(job.parties[0])
    os.makedirs(folder)
    monkeypatch.setenv("nnUNet_results", folder)
    threads = torch.get_num_threads()
    trainer = LocalTrainer(job, 0)
    weights = trainer.weights()
    rates = []
    for number in (1, 3):
        assert len(trainer.train(number, weights)["losses"]) == 1
        rates.append(trainer.trainer.optimizer.param_groups[0]["lr"])
    assert trainer.states() == [1, 3] and rates == [pytest.approx(1e-2 * (1 - e / 5) ** 0.9) for e in (0, 2)]
    with pytest.raises(StitchError, match="asked for round 2 after 3 epochs"):
        trainer.train(2, weights)
    for done, last in ((2, 1), (4, 3)):  # the third round was not finished when it was interrupted, or a later one was
        again = LocalTrainer(replace(job, start_round=done), 0)
        assert again.trainer.current_epoch == last
    with pytest.raises(StitchError, match="asked for round 3"):
        strict = LocalTrainer(replace(job, may_miss=False), 0)
        strict.train(3, weights)
    torch.set_num_threads(threads)


def test_progress(tmp_path):
    merge = {"chosen": GUIDED, "scored_by": "Dice", "scores": {GUIDED: 0.8, "A alone": 0.6, "B alone": 0.7}}
    history = [{"round": 1, "merge": None, "models": []},
               {"round": 2, "merge": merge, "models": [{"party": "A", "age": 0}, {"party": "B", "age": 1}]}]
    for entries in (history, history[:1]):
        assert Path(progress_curve(entries, str(tmp_path / "p.png"))).read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(("changes", "message"), [
    ({"settings": SearchSettings(granularity="layer")}, "granularity 'layer' is not one of"),
    ({"settings": SearchSettings(steps=0)}, "steps must be at least 1"),
    ({"deadline": 0}, "deadline is 0"), ({"deadline": float("inf")}, "deadline is inf"),
    ({"quorum": 0}, "quorum is 0; it must be at least 1"), ({"max_age": -1}, "max_age is -1"),
])
def test_bad_settings(changes, message):
    with pytest.raises(StitchError, match=message):
        check_search(**{"settings": SearchSettings(), "deadline": 1.0, "quorum": None, "max_age": None, **changes})
