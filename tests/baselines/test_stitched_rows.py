"""Settings that a comparison looks at, and the weight of a weighted ensemble."""

import pytest
import torch

from nnunetv2_stitch.baselines.rows import ROWS, Answer
from nnunetv2_stitch.baselines.stitched import best_share, rule_settings
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.selection.sweep import Sweep
from nnunetv2_stitch.stitching.layers import Heads
from nnunetv2_stitch.stitching.setting import Setting


def sweep(fold, ensemble, r2):
    n = len(ensemble)
    return Sweep(fold=fold, positions=list(range(n)), names=["layer"] * n, ensemble=ensemble, host_head=[0.0] * n,
                 partner_head=[0.0] * n, baselines={}, cases=1, r2=[(r, r) for r in r2])


SWEEPS = [sweep(0, [0.1, 0.4, 0.3, 0.2], [0.2, 0.1, 0.9, 0.3]), sweep(1, [0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.8, 0.9])]


@pytest.mark.parametrize("rule, positions", [
    ("1", (1, 3)), ("2", (1, 1)), ("3", (2, 2)), ("loo", (3, 1)), ("r2", (2, 2)),
])
def test_rules(rule, positions):
    # Rule 2: ranks 4, 1, 2, 3 and 4, 3, 2, 1 leave positions 1, 2 and 3 at a mean of 2, and the earliest wins.
    settings = rule_settings(SWEEPS, rule, [0.1, 0.4, 0.6, 0.9])
    assert tuple(min(settings[f].switches) for f in (0, 1)) == positions


def test_best_share():
    assert best_share({0.3: 0.9, 0.5: 0.8, 0.8: 0.9000000001}) == 0.3
    assert best_share({0.0: 0.7, 0.5: 0.7, 1.0: 0.7}) == 0.5


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("regions", [False, True])
def test_weighted_head_is_the_weighted_mean_of_probabilities(share, regions):
    a, b = torch.randn(2, 2, 3, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 5
    probability = torch.sigmoid if regions else (lambda t: t.softmax(1))
    mean = probability(Heads(regions=regions, host_share=share)(a, b))
    torch.testing.assert_close(mean, share * probability(a) + (1 - share) * probability(b))
    logits = Heads(combine="logits", host_share=share)(a, b)
    torch.testing.assert_close(logits, share * a + (1 - share) * b)


def test_share_round_trip_and_bounds():
    setting = Setting(host_share=0.25)
    assert Setting.from_json(setting.to_json()) == setting
    assert "host_share" not in Setting().to_json()
    with pytest.raises(StitchError, match="host_share 1.5"):
        Setting(host_share=1.5)


def test_answers_survive_json():
    answer = Answer("folder", [0, "all"], {0: Setting.average_at(3), "all": Setting(host_share=0.7)}, "detail")
    assert Answer.from_json(answer.to_json()) == answer


def test_keys_and_names_of_rows_are_unique():
    assert len({r.key for r in ROWS}) == len({r.name for r in ROWS}) == len(ROWS)
