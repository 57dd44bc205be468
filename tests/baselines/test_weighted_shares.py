"""The kind: what one pass of a network tells is not computed again for every number that is read from it."""

import json

import pytest
import torch

from nnunetv2_stitch.baselines.stitched import SHARES, weighted_shares
from nnunetv2_stitch.selection import bands
from nnunetv2_stitch.selection.dice import foreground_dice
from nnunetv2_stitch.selection.scoring import SettingScorer
from nnunetv2_stitch.stitching.setting import Setting


@pytest.fixture
def scorer(stitched2d, nnunet_env):
    world = nnunet_env(stitched2d.world)
    plans, dataset_json = (json.loads((stitched2d.folder / f).read_text()) for f in ("plans.json", "dataset.json"))
    return SettingScorer.of_fold(plans, "2d", dataset_json, 0, str(stitched2d.folder), str(world.results),
                                 torch.device("cpu"))


def scores(scorer, shares, cases) -> list[float]:
    return [foreground_dice(found, cases.title) for found in scorer.count_shares(shares, cases)]


def test_many_shares_are_one_pass_of_the_heads_and_score_as_nnunets_prediction_does(scorer, stitched2d, monkeypatch):
    world = stitched2d.world
    scorer.banded.batch_size = 1  # as nnU-Net predicts, so that the answers are the same to the last bit
    cases = scorer.validation_cases(str(world.preprocessed / world.host.dataset), 0)
    passes = []
    first = next(m for m in scorer.network.host.modules() if isinstance(m, torch.nn.Conv2d))
    first.register_forward_hook(lambda *_: passes.append(1))
    found = dict(zip(SHARES, scores(scorer, SHARES, cases)))
    once = len(passes)
    for share in SHARES[::5]:
        passes.clear()
        assert found[share] == scorer.score(Setting(host_share=share), cases)
        assert len(passes) == once, "of one share alone"
    assert len(found) == len(SHARES) == 21 and len(set(found.values())) > 2
    # Where the sums of all shares do not fit into memory, they are made in turns.
    monkeypatch.setattr(bands, "room_for_sums", lambda: 0)
    few = SHARES[8:11]
    passes.clear()
    assert scores(scorer, few, cases) == [found[s] for s in few] and len(passes) == len(few) * once


def test_the_share_of_the_best_dice_is_taken(scorer, stitched2d):
    world = stitched2d.world
    share, means = weighted_shares(str(stitched2d.folder), "2d", [0], str(world.results), str(world.preprocessed),
                                   torch.device("cpu"))
    cases = scorer.validation_cases(str(world.preprocessed / world.host.dataset), 0)
    assert list(means) == list(SHARES) and means[share] == max(means.values())
    assert means[0.5] == pytest.approx(scorer.score(Setting(), cases), abs=2e-3)
