"""Parts of guided merging in rounds that need no Flower: a party's training, the centre's search, what is kept, what is
refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import world as worlds

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.federation.app import PYPROJECT
from nnunetv2_stitch.federation.app import main as write_app_command
from nnunetv2_stitch.federation.buffer import ModelBuffer, PartyModel
from nnunetv2_stitch.federation.centre_search import PREVIOUS, CentreSearch, SearchSettings
from nnunetv2_stitch.federation.data import FederatedParty, party_files, plans_to_train
from nnunetv2_stitch.federation.figures import progress_curve
from nnunetv2_stitch.federation.local import LocalTrainer, Schedule, newest_state, states
from nnunetv2_stitch.federation.round_files import keep_round, kept_models
from nnunetv2_stitch.federation.settings import RoundsSettings, check_search, own_site
from nnunetv2_stitch.federation.sharing import shared_arrays
from nnunetv2_stitch.federation.state import WEIGHTS_FILE, State, read_state, write_state
from nnunetv2_stitch.merging.guided import FEDAVG, GUIDED, choose
from nnunetv2_stitch.parties.checkpoint import load_checkpoint, load_weights, network_weights
from nnunetv2_stitch.training.centre import opened


@pytest.fixture
def world(world2d, nnunet_env):
    return nnunet_env(world2d)


@pytest.mark.slow
def test_the_centre_writes_what_is_best_on_its_cases(world):
    site = own_site(str(world.preprocessed / world.host.dataset), "2d", 0, worlds.PLANS)
    with opened(site, torch.device("cpu")) as centre:
        path = str(world.model(world.host) / "fold_0" / "checkpoint_final.pth")
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


def test_what_is_kept_between_rounds(tmp_path):
    def model(party, asked_in):
        return PartyModel(party, asked_in, 3, {"a": np.full(2, asked_in, np.float32)}, (0.5,))

    def entry(number, models):
        return {"round": number, "models": [m.to_json(number) for m in models], "merge": None}

    state, weights = State(0, {"seed": 1}, [], {}), {"a": np.zeros(2, np.float32)}
    assert kept_models(str(tmp_path), state) == []
    for number, models in ((1, [model("A", 1), model("B", 1)]), (2, [model("A", 2), model("B", 1)])):
        state = keep_round(str(tmp_path), state, entry(number, models), weights, models)
    again = read_state(str(tmp_path / WEIGHTS_FILE))
    assert again.round == 2 and len(again.history) == 2
    kept = kept_models(str(tmp_path), again)
    assert [(m.party, m.asked_in, m.cases, m.losses) for m in kept] == [("A", 2, 3, (0.5,)), ("B", 1, 3, (0.5,))]
    np.testing.assert_array_equal(kept[0].weights["a"], np.full(2, 2))
    folder = tmp_path / "models"
    assert {p.name for p in folder.iterdir()} == {"A_00002.safetensors", "B_00001.safetensors"}
    (folder / "B_00001.safetensors").write_bytes(b"cut short")
    with pytest.raises(StitchError, match="B_00001.safetensors cannot be read"):
        kept_models(str(tmp_path), again)


def test_a_state_is_read_as_it_was_written(tmp_path):
    path = str(tmp_path / WEIGHTS_FILE)
    state = State(3, {"seed": 1}, [{"round": 1}], {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3)})
    write_state(path, state)
    again = read_state(path)
    assert replace(again, weights={}) == replace(state, weights={})
    np.testing.assert_array_equal(again.weights["a.weight"], state.weights["a.weight"])
    assert [p.name for p in tmp_path.iterdir()] == [WEIGHTS_FILE]
    Path(path).write_bytes(b"cut short")
    with pytest.raises(StitchError, match="is not a federated training's state"):
        read_state(path)


@pytest.mark.slow
def test_a_party_may_miss_rounds_and_goes_on_with_its_last_state(world, tmp_path):
    party = FederatedParty("A", world.host.dataset, worlds.PLANS)

    def trainer():
        return LocalTrainer("A", plans_to_train(party, "2d"), party_files(party)[1], Schedule("2d", 0, 5, 1, 2, 1),
                            str(tmp_path), torch.device("cpu"), 2)

    first, rates, outside = trainer(), [], torch.get_rng_state()
    weights = first.weights()
    for number in (1, 3):
        first.miss_rounds(number)
        assert len(first.train(number, weights)) == 1
        rates.append(first.trainer.optimizer.param_groups[0]["lr"])
    assert torch.equal(torch.get_rng_state(), outside), "the process' own random numbers were drawn from"
    assert states(str(tmp_path)) == [1, 3] and rates == [pytest.approx(1e-2 * (1 - e / 5) ** 0.9) for e in (0, 2)]
    with pytest.raises(StitchError, match="asked for round 2 after 3 epochs"):
        first.train(2, weights)
    with pytest.raises(StitchError, match="the training diverged in round 4"):
        first.train(4, {n: np.full_like(w, np.nan) for n, w in weights.items()})
    assert states(str(tmp_path)) == [1, 3]
    assert [newest_state(str(tmp_path), done) for done in (0, 1, 2, 4)] == [0, 1, 1, 3]
    again = trainer()
    again.load_state(1)
    assert again.trainer.current_epoch == 1
    again.miss_rounds(3)
    again.train(3, weights)  # the third round was not finished when it was interrupted
    for name, value in first.weights().items():
        if "running" not in name:
            assert np.isfinite(again.weights()[name]).all() and value.shape == again.weights()[name].shape
    with pytest.raises(StitchError, match="state_00002.pth does not exist, so A cannot go on after round 2"):
        again.load_state(2)


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
])
def test_bad_settings(changes, message):
    with pytest.raises(StitchError, match=message):
        check_search(**{"settings": SearchSettings(), "deadline": 1.0, **changes})


def configuration(**changes):
    """The app's, as Flower hands it over."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 or newer, as Flower needs")
    return {**tomllib.loads(PYPROJECT)["tool"]["flwr"]["app"]["config"], **changes}


def test_the_apps_own_configuration_is_read():
    settings = RoundsSettings.read(configuration(iterations=7, fold="all"))
    assert settings.schedule == Schedule("2d", "all", 50, 1, 7, 12345) and settings.search_settings == SearchSettings()
    assert settings.waiting == {"deadline": 3600.0, "quorum": None, "max_age": None, "forget_after": 43200.0}
    assert settings.kept() == RoundsSettings.read(configuration(iterations=7, fold="all", quorum=2)).kept()


@pytest.mark.parametrize(("changes", "message"), [
    ({"rounds": 0}, "rounds is 0; it must be at least 1"), ({"quorum": -1}, "quorum is -1"),
    ({"max_age": -2}, "max_age is -2"), ({"fold": "../1"}, "fold is '../1'; give a number, or all"),
    ({"rounds": "many"}, "rounds is 'many' in the app's configuration; it must be a whole number"),
])
def test_a_bad_entry_of_the_app(changes, message):
    with pytest.raises(StitchError, match=message):
        RoundsSettings.read(configuration(**changes))


def test_a_missing_entry_of_the_app():
    with pytest.raises(StitchError, match="lacks rounds; make its folder anew"):
        RoundsSettings.read({k: v for k, v in configuration().items() if k != "rounds"})


def test_the_apps_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("nnunetv2_stitch.federation.app.find_spec", lambda name: object())
    folder = tmp_path / "app"
    assert write_app_command([str(folder)]) == 0
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*.*")} == {
        "pyproject.toml", "rounds/__init__.py", "rounds/server.py", "rounds/client.py"}
    assert write_app_command([str(folder)]) == 2 and "is there already; name a new folder" in capsys.readouterr().err
    assert write_app_command([]) == write_app_command(["--help"]) == 2
    monkeypatch.setattr("nnunetv2_stitch.federation.app.find_spec", lambda name: None)
    assert write_app_command([str(tmp_path / "other")]) == 2 and not (tmp_path / "other").exists()
    assert "pip install 'nnunetv2-stitch[federated]'" in capsys.readouterr().err
