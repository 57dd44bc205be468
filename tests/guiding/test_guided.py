"""Mixing weights searched for a stitched model, through the rule `guided`."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from stitched_model import stitch

from nnunetv2_stitch.guiding.fold import GUIDED_FILE
from nnunetv2_stitch.guiding.mixing import MixingObjective, present_weights
from nnunetv2_stitch.inference.predictor import StitchedPredictor
from nnunetv2_stitch.search.coefficients import SearchOptions, search
from nnunetv2_stitch.stitching.network import SETTING_KEY
from nnunetv2_stitch.stitching.setting import Setting, decode_setting

STEPS = 12


@pytest.fixture
def world(stitched2d, copy_world, nnunet_env, thread_pools):
    return nnunet_env(copy_world(stitched2d.world))


@pytest.fixture
def folder(world, stitched2d) -> Path:
    return world.results / stitched2d.folder.relative_to(stitched2d.world.results)


@pytest.fixture
def objective(world, folder):
    """Of the first fold, on one batch that stays."""
    from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint

    from nnunetv2_stitch.environment import our_trainers_known
    from nnunetv2_stitch.selection.scoring import SettingScorer
    trainer_name, plans_name, configuration = folder.name.split("__")
    with our_trainers_known():
        trainer = get_trainer_from_args(world.host.dataset, configuration, 0, trainer_name, plans_name, False,
                                        torch.device("cpu"))
        maybe_load_checkpoint(trainer, False, True)
    loader, _ = trainer.get_dataloaders()
    batch = next(loader)
    trainer.dataloader_train = iter(lambda: batch, None)
    scorer = SettingScorer(trainer.stitched, trainer.plans_manager, trainer.configuration_manager,
                           trainer.dataset_json, trainer.device)
    cases = scorer.validation_cases(str(world.preprocessed / world.host.dataset), 0)
    return MixingObjective(trainer, scorer, cases[:1], Setting())


def setting_of(folder, fold) -> Setting:
    path = folder / f"fold_{fold}" / "checkpoint_final.pth"
    return decode_setting(torch.load(path, weights_only=True)["network_weights"][SETTING_KEY])


def test_the_gradient_is_the_slope_of_the_loss_and_the_search_goes_down_it(objective):
    net = objective.network
    before = {k: v.clone() for k, v in net.state_dict().items() if k != SETTING_KEY}
    net.apply_setting(Setting.average_at(*net.positions))
    c = present_weights(net)
    loss, gradient = objective.loss_and_gradient(c)
    assert gradient.shape == c.shape and loss == pytest.approx(objective.loss(c), abs=1e-6)
    direction = gradient / gradient.norm()
    slope = (objective.loss(c + 1e-2 * direction) - objective.loss(c - 1e-2 * direction)) / 2e-2
    assert slope == pytest.approx(float(gradient.norm()), rel=0.05) and slope > 1e-3
    found = search(objective, c, SearchOptions(steps=12, checks=2))
    assert found.history[-1]["loss"] < loss
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items() if k != SETTING_KEY)


@pytest.mark.slow
def test_guided_is_deployed_recorded_kept_and_undone(world, folder):
    said = []
    result = stitch(world, rule="guided", continue_training=True, search_steps=STEPS, say=said.append)
    record = json.loads((folder / "fold_0" / GUIDED_FILE).read_text())
    assert 1 <= len(record["history"]) <= 10 and record["score"] >= record["start_score"]
    assert sum(f"step {STEPS} of {STEPS}" in line for line in said) == 2  # folds
    rules = [row["rule 2"] for row in result.table]
    guided = [json.loads((folder / f"fold_{f}" / GUIDED_FILE).read_text())["score"] for f in (0, 1)]
    assert result.weighted and np.mean(guided) > np.mean(rules)
    assert [row["chosen"] for row in result.table] == guided
    for fold in (0, 1):
        setting = setting_of(folder, fold)
        assert setting.is_weighted and len(setting.switches) > 40
    assert (folder / "guided_mixing.png").stat().st_size > 10_000
    assert "mixing weights from" in (folder / "MODEL_CARD.md").read_text()
    predictor = StitchedPredictor(device=torch.device("cpu"), use_mirroring=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), (0, 1))

    assert stitch(world, only_validation=True, search_steps=STEPS) == result  # which searches and chooses nothing

    # Again: nothing is searched anew, and the same seed finds the same.
    weights = record["weights"]
    said.clear()
    again = stitch(world, rule="guided", continue_training=True, search_steps=STEPS, say=said.append)
    assert not any("step" in line for line in said) and again.table == result.table
    (folder / "fold_0" / GUIDED_FILE).unlink()
    stitch(world, rule="guided", continue_training=True, search_steps=STEPS)
    assert json.loads((folder / "fold_0" / GUIDED_FILE).read_text())["weights"] == weights

    # A search that is too short to beat a position leaves the position, and says so.
    short = stitch(world, rule="guided", continue_training=True, search_steps=1)
    assert not short.weighted and any("found nothing better" in line for line in short.remarks)
    assert [row["chosen"] for row in short.table] == [row["rule 2"] for row in short.table]
    back = stitch(world, rule="2", only_selection=True)
    assert not back.weighted and not (folder / "guided_mixing.png").exists()
    assert not setting_of(folder, 0).is_weighted
