"""Switches with numbers: free mixing weights in a setting, in the network and after pruning."""

import json

import pytest
import torch
from close import assert_same
from networks import ensemble, image, spec

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.guiding.mixing import present_weights
from nnunetv2_stitch.pipeline.stitched_card import describe
from nnunetv2_stitch.stitching.setting import Setting

WEIGHTS = {3: (-0.3, 1.4), 5: (0.2, "own"), 8: "average"}


def test_numbers_survive_json_and_name_the_states_they_are():
    setting = Setting(WEIGHTS)
    assert Setting.from_json(json.loads(json.dumps(setting.to_json()))) == setting
    assert setting.is_weighted and not Setting.average_at(3).is_weighted
    assert Setting({3: (0, 1.0), 4: 0.0}) == Setting({3: ("own", "stitched")})
    assert "mixing weights from -0.30 to 1.40 at 3 positions" in describe(setting.to_json())
    for wrong in (float("nan"), float("inf"), True, (0.1, 0.2, 0.3), ("own", None)):
        with pytest.raises(StitchError, match="switch 3"):
            Setting({3: wrong})


@torch.no_grad()
def test_one_half_is_the_average_and_pruning_changes_nothing():
    net = ensemble(spec(), spec(width=4))
    x = image()
    net.apply_setting(Setting.average_at(3, 5))
    average = net(x)
    net.apply_setting(Setting({3: 0.5, 5: 0.5}))
    torch.testing.assert_close(net(x), average, rtol=0, atol=0)
    net.apply_setting(Setting(WEIGHTS))
    assert not torch.allclose(net(x), average)
    deployed = net.deployed(Setting(WEIGHTS))
    torch.testing.assert_close(deployed(x), net(x), rtol=0, atol=0)
    assert not any(k.startswith("switches.5.partner") for k in deployed.state_dict())


@torch.no_grad()
def test_a_weight_is_the_translated_maps_share():
    switch = ensemble(spec(), spec()).switch(2, "host")
    own, other = torch.randn(1, 6, 4, 4), torch.randn(1, 6, 4, 4)
    switch.state, switch.mixing_weight = "average", -0.25
    assert_same(switch(own, other), 1.25 * own - 0.25 * switch.stitch(other))


def test_present_weights_of_a_star_count_all_alike():
    net = ensemble(spec(), spec(), spec()).double()
    net.apply_setting(Setting.average_at(*net.positions))
    weights = present_weights(net)
    assert weights.shape == (2, len(net.positions)) and set(weights[1].tolist()) == {0.5}
    assert {round(w, 3) for w in weights[0].tolist()} == {0.5, 0.333}
    x = image().double()
    with torch.no_grad():
        wanted = net(x)
        net.apply_setting(Setting.weighted(net.positions, weights.T.tolist()))
        assert_same(net(x), wanted)
