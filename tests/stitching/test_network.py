import json

import pytest
import torch
from close import assert_same
from networks import CHANNELS, CLASSES, build, ensemble, image, matches_of, spec
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.stitching.layers import Heads, Switch, mean_sigmoid_as_logits, mean_softmax_as_logits
from nnunetv2_stitch.stitching.network import CLASS_PATH, SETTING_KEY, StitchedEnsemble
from nnunetv2_stitch.stitching.setting import Setting

PAIRS = pytest.mark.parametrize("partner", [
    {}, {"kind": "ResidualEncoderUNet"}, {"kind": "ResidualUNet", "stages": 4}, {"width": 4, "convs": 3},
], ids=["twin", "resenc", "deeper residual", "narrower"])


@PAIRS
@torch.no_grad()
def test_unlike_parents_are_built_from_json_through_nnunet(partner):
    specs = [spec(), spec(**partner)]
    description = json.loads(json.dumps({
        "parents": specs, "matches": matches_of(*specs), "setting": Setting.average_at(4).to_json()}))
    network = get_network_from_plans(CLASS_PATH, description, [], CHANNELS, CLASSES, deep_supervision=False)
    assert isinstance(network, StitchedEnsemble)
    assert network(image()).shape == (2, CLASSES, 16, 16)


@PAIRS
@torch.no_grad()
def test_pruned_network_equals_the_supernet(partner):
    net = ensemble(spec(), spec(**partner))
    x = image()
    for setting in (Setting.average_at(4), Setting.average_at(3, 9), Setting.average_at(5, output="host"),
                    Setting({4: "stitched"}), Setting({2: ("average", "own")}, "host"), Setting(output="partner")):
        net.apply_setting(setting)
        deployed = net.deployed(setting)
        torch.testing.assert_close(deployed(x), net(x), rtol=0, atol=0)


def test_pruning_keeps_only_what_the_setting_needs():
    net = ensemble(spec(), spec())
    last_encoder = max(p for p in net.positions if net.matches[p]["host_path"].startswith("encoder"))
    names = list(net.deployed(Setting.average_at(last_encoder, output="host")).state_dict())
    assert {n.split(".")[1] for n in names if n.startswith("switches")} == {str(last_encoder)}
    assert not any(n.startswith(f"switches.{last_encoder}.partner") for n in names)
    assert any(n.startswith("partner.encoder") for n in names)
    assert not any(n.startswith("partner.decoder") for n in names)
    assert not any(n.startswith("partner") for n in net.deployed(Setting(output="host")).state_dict())


@torch.no_grad()
def test_loading_other_weights_respecialises_the_network():
    net = ensemble(spec(), spec(width=4))
    x = image()
    settings = [Setting.average_at(4), Setting.average_at(8, output="host"),
                Setting({3: "stitched"}, "partner", "logits")]
    deployed = [net.deployed(s) for s in settings]
    network = net.deployed(Setting.average_at(1))
    for other in (*deployed, *reversed(deployed)):
        network.load_state_dict(other.state_dict())
        torch.testing.assert_close(network(x), other(x), rtol=0, atol=0)


@torch.no_grad()
def test_a_deployed_network_takes_what_it_needs_from_a_supernets_weights():
    net = ensemble(spec(), spec())
    net.apply_setting(Setting.average_at(6))
    deployed = net.deployed(Setting(output="host"))
    deployed.load_state_dict(net.state_dict())
    torch.testing.assert_close(deployed(image()), net(image()), rtol=0, atol=0)


def test_weights_that_lack_what_the_setting_needs_are_refused_by_name():
    net = ensemble(spec(), spec())
    weights = net.deployed(Setting(output="host")).state_dict()
    weights[SETTING_KEY] = net.deployed(Setting.average_at(3)).state_dict()[SETTING_KEY]
    with pytest.raises(StitchError, match="lack partner."):
        net.deployed(Setting(output="host")).load_state_dict(weights)


def test_unreadable_setting_is_refused():
    net = ensemble(spec(), spec())
    weights = {**net.state_dict(), SETTING_KEY: torch.tensor([1, 2, 3], dtype=torch.uint8)}
    with pytest.raises(StitchError, match="setting"):
        net.load_state_dict(weights)


def test_parents_are_frozen_and_in_eval_mode_even_in_training():
    net = ensemble(spec(norm="BatchNorm"), spec(norm="BatchNorm"))
    before = {k: v.clone() for k, v in net.host.state_dict().items()}
    net.train()
    assert net.training
    net(image())
    assert all(torch.equal(v, before[k]) for k, v in net.host.state_dict().items())
    trainable = {n for n, p in net.named_parameters() if p.requires_grad}
    assert trainable and all(n.startswith("switches.") for n in trainable)


def test_only_chosen_positions_carry_stitches():
    net = ensemble(spec(), spec(), positions=[2, 5])
    assert {n.split(".")[1] for n in net.stitch_state()} == {"2", "5"}
    with pytest.raises(StitchError, match="no stitch at position 3"):
        ensemble(spec(), spec(), positions=[2, 5], setting=Setting.average_at(3).to_json())


def test_2d_with_3d_is_refused():
    with pytest.raises(StitchError, match="2d .* 3d"):
        StitchedEnsemble(1, 3, [spec(dim=2), spec(dim=3)], [])


def test_one_parent_and_broken_plans_are_refused():
    with pytest.raises(StitchError, match="two parents"):
        StitchedEnsemble(1, 3, [spec()], [])
    broken = spec()
    del broken["arch_kwargs"]["strides"]
    with pytest.raises(StitchError, match="cannot be built"):
        StitchedEnsemble(1, 3, [spec(), broken], [])
    with pytest.raises(StitchError, match="no layer nonsense"):
        StitchedEnsemble(1, 3, [spec(), spec()], [{"host": "nonsense", "partner": "nonsense", "host_channels": 1,
                                                   "partner_channels": 1}])


def test_a_deployed_network_cannot_switch():
    with pytest.raises(StitchError, match="supernet"):
        ensemble(spec(), spec()).deployed(Setting()).apply_setting(Setting(output="host"))


def test_setting_round_trip_and_errors():
    setting = Setting({4: "average", 7: ("stitched", "own"), 9: "own"}, "host", "logits")
    assert Setting.from_json(json.loads(json.dumps(setting.to_json()))) == setting
    assert 9 not in setting.switches and setting.state(9, "host") == "own" and setting.state(7, "host") == "stitched"
    for wrong in ({"switches": {1: "on"}}, {"output": "both"}, {"combine": "votes"}):
        with pytest.raises(StitchError):
            Setting(**wrong)


def test_switch_states():
    switch = Switch(2, 3, 2)
    own, other = torch.randn(1, 2, 4, 4), torch.randn(1, 3, 4, 4)
    translated = switch.stitch(other)
    for state, wanted in (("own", own), ("stitched", translated), ("average", (own + translated) / 2)):
        switch.state = state
        assert_same(switch(own, other), wanted)


def test_heads_give_back_mean_probabilities_also_for_extreme_logits():
    a, b = 300 * torch.randn(2, 3, 5, 5), 300 * torch.randn(2, 3, 5, 5)
    mean = (a.double().softmax(1) + b.double().softmax(1)) / 2
    assert_same(mean_softmax_as_logits([a, b]).double().softmax(1), mean, precision=torch.float32)
    mean = (a.double().sigmoid() + b.double().sigmoid()) / 2
    got = mean_sigmoid_as_logits([a, b])
    assert torch.isfinite(got).all()
    assert_same(got.double().sigmoid(), mean, precision=torch.float32)
    regions = Heads(regions=True)
    assert_same(regions(a, b), got)


def test_build_keeps_the_parents_function():
    network = build(spec())
    net = ensemble(spec(), spec(), networks=[network, network])
    net.apply_setting(Setting(output="host"))
    assert torch.equal(net(image()), network(image()))
