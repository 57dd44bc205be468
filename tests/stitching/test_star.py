"""A host with several partners: each stitched to the host alone, all averaged."""

import pytest
import torch
from close import assert_same
from networks import CLASSES, build, ensemble, image, matches_of, spec

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fitting.closed_form import DirectMatching, all_average
from nnunetv2_stitch.fitting.double_batched import double_batched_loss, errors_of_streams, relative_error
from nnunetv2_stitch.selection.sweep import sweep_heads
from nnunetv2_stitch.stitching.layers import mean_softmax_as_logits
from nnunetv2_stitch.stitching.network import StitchedEnsemble
from nnunetv2_stitch.stitching.runner import GraphRunner, is_switch, position_of
from nnunetv2_stitch.stitching.setting import SIDES, Setting

SPECS = [spec(), spec(width=4, convs=1), spec("ResidualEncoderUNet")]
PARTIES = ("host", "partner", "partner2")


@pytest.fixture(scope="module")
def parents():
    return [build(s, seed) for seed, s in enumerate(SPECS)]


@pytest.fixture
def star(parents):
    return ensemble(*SPECS, networks=parents)


def shared_layer(net):
    """Positions of a layer of the host that both partners are matched with."""
    by_layer = {}
    for position, match in enumerate(net.matches):
        by_layer.setdefault(match["host"], []).append(position)
    return next(p for p in list(by_layer.values())[3:] if len(p) == 2)


def constant(switch, value):
    switch.set_affine(torch.zeros(switch.stitch.weight.shape[:2]), torch.full((switch.stitch.out_channels,), value))


def maps_behind(net, x, position):
    """What the host's switches of a position get and give."""
    runner, seen = GraphRunner(net.joined), {}

    def on_switch(node, own, other):
        seen[position_of(node)] = own, runner.modules[node](own, other)
        return seen[position_of(node)][1]

    runner.run({runner.input: x}, on_switch=on_switch)
    return seen[position, "host"]


def test_matches_are_in_order_of_the_host_and_those_of_each_pair(star):
    for i, name in ((1, "partner"), (2, "partner2")):
        pairs = [(m["host"], m["partner"]) for m in star.matches if m["party"] == name]
        assert pairs == [(m["host"], m["partner"]) for m in matches_of(SPECS[0], SPECS[i])] and pairs
    runner = GraphRunner(star.joined)
    order = [position_of(n)[0] for n in runner.nodes if is_switch(n)]
    assert order == sorted(order) and star.parties == PARTIES


@torch.no_grad()
def test_untouched_it_is_each_parent_and_their_mean(star, parents):
    x = image()
    logits = [p(x) for p in parents]
    for party, wanted in zip(PARTIES, logits):
        star.apply_setting(Setting(output=party))
        torch.testing.assert_close(star(x), wanted, rtol=0, atol=0)
    star.apply_setting(Setting())
    mean = torch.stack([w.softmax(1) for w in logits]).mean(0)
    assert_same(star(x).softmax(1), mean)
    star.apply_setting(Setting(host_share=0.5))
    weighted = 0.5 * logits[0].softmax(1) + 0.25 * (logits[1].softmax(1) + logits[2].softmax(1))
    assert_same(star(x).softmax(1), weighted)
    star.apply_setting(Setting(combine="logits"))
    assert_same(star(x), torch.stack(logits).mean(0))


@torch.no_grad()
def test_all_that_are_averaged_behind_one_layer_count_alike(star):
    first, second = shared_layer(star)
    constant(star.switch(first, "host"), 2.0)
    constant(star.switch(second, "host"), 5.0)
    x = image()
    star.apply_setting(Setting())
    own, _ = maps_behind(star, x, first)
    for states, wanted in (
        ({first: "average", second: "average"}, (own + 7) / 3), ({first: "average"}, (own + 2) / 2),
        ({second: "average"}, (own + 5) / 2), ({first: "stitched", second: "average"}, torch.full_like(own, 3.5)),
        ({first: "average", second: "stitched"}, torch.full_like(own, 5.0)), ({}, own),
    ):
        star.apply_setting(Setting({p: (s, "own") for p, s in states.items()}))
        assert_same(maps_behind(star, x, second)[1], wanted)


@torch.no_grad()
def test_triplets_with_identity_stitches_are_the_parent_in_every_setting():
    network = build(spec())
    net = ensemble(spec(), spec(), spec(), networks=[network] * 3).double()
    for position in net.positions:
        for side in SIDES:
            switch = net.switch(position, side)
            switch.set_affine(torch.eye(switch.stitch.out_channels), torch.zeros(switch.stitch.out_channels))
    x = image().double()
    wanted = network.double()(x)
    for switches in ({p: "average" for p in net.positions}, {p: "stitched" for p in net.positions}, {5: "average"}):
        for output in PARTIES:
            net.apply_setting(Setting(switches, output))
            assert_same(net(x), wanted)


@torch.no_grad()
def test_deployed_is_the_supernet_and_holds_what_it_needs(star):
    torch.manual_seed(0)
    for parameter in star.stitch_parameters():
        parameter.copy_(0.3 * torch.randn_like(parameter))
    first, second = shared_layer(star)
    x = image()
    for setting, absent in (
        (Setting.average_at(first, second), ()), (Setting({first: ("average", "own")}, "host"), ("partner2.",)),
        (Setting({second: ("stitched", "own"), first: ("average", "own")}, "host"), ("partner.", f"switches.{first}.")),
        (Setting(output="partner2"), ("host.", "partner.", "switches.")), (all_average(star), ()),
    ):
        star.apply_setting(setting)
        deployed = star.deployed(setting)
        assert_same(deployed(x), star(x))
        kept = list(deployed.state_dict())
        assert not [k for k in kept for a in absent if k.startswith(a)], setting


def test_folds_with_other_settings_load_into_one_network(star):
    first, second = shared_layer(star)
    a, b = star.deployed(Setting.average_at(first, second)), star.deployed(Setting(output="partner2"))
    x = image()
    wanted = a(x)
    a.load_state_dict(b.state_dict())
    torch.testing.assert_close(a(x), b(x), rtol=0, atol=0)
    a.load_state_dict(star.deployed(Setting.average_at(first, second)).state_dict())
    torch.testing.assert_close(a(x), wanted, rtol=0, atol=0)


@torch.no_grad()
def test_each_pair_is_fitted_as_if_it_were_alone(star, parents):
    matching = DirectMatching(star)
    matching.update(image())
    found = matching.solve()
    for i, name in ((1, "partner"), (2, "partner2")):
        pair = ensemble(SPECS[0], SPECS[i], networks=[parents[0], parents[i]])
        alone = DirectMatching(pair)
        alone.update(image())
        r2 = alone.solve()
        mine = [p for p in star.positions if star.party_at(p) == name]
        for position, own in zip(mine, pair.positions):
            assert found[position] == pytest.approx(r2[own], abs=1e-5)
            for side in SIDES:
                torch.testing.assert_close(star.switch(position, side).stitch.weight,
                                           pair.switch(own, side).stitch.weight, rtol=1e-3, atol=1e-4)


def test_the_loss_compares_every_stitch_with_its_own_map(star, parents):
    """Also behind a layer with two switches, where the second reads what the first gives."""
    x = image()
    first, second = shared_layer(star)
    constant(star.switch(first, "host"), 0.0)
    constant(star.switch(second, "host"), 0.0)
    star.apply_setting(Setting.average_at(first, second))
    double_batched_loss(star, x).backward()
    own = maps_behind(ensemble(*SPECS, networks=parents), x, first)[0]
    n = 2 * len(star.positions)
    for position in (first, second):
        bias = torch.zeros(own.shape[1], requires_grad=True)
        relative_error(bias[None, :, None, None].expand_as(own), own).backward()
        direct = star.switch(position, "host").stitch.bias.grad
        assert direct is not None and torch.isfinite(direct).all()
        # The rest of the gradient goes through what lies behind; without it the two are equal.
        star.zero_grad()
        star.apply_setting(Setting())
        errors_of_streams(star, x)[0].backward()
        assert_same(star.switch(position, "host").stitch.bias.grad, bias.grad / n)


@torch.no_grad()
def test_the_sweep_is_one_pass_per_position(star):
    torch.manual_seed(0)
    for parameter in star.stitch_parameters():
        parameter.copy_(0.3 * torch.randn_like(parameter))
    x = image()
    found = {position: heads for position, *heads in sweep_heads(GraphRunner(star.joined), x, star.positions)}
    for position in [None, *star.positions[::9], *shared_layer(star)]:
        star.apply_setting(Setting() if position is None else Setting.average_at(position))
        assert_same(mean_softmax_as_logits(found[position]), star(x))


@pytest.mark.slow
def test_one_graph_under_compile(star):
    first, second = shared_layer(star)
    network = star.deployed(Setting({first: (-0.2, 1.3), second: "average"}))
    explained = torch._dynamo.explain(network)(image())
    assert explained.graph_break_count == 0


@pytest.mark.parametrize("arguments, said", [
    ({"bridges": [None]}, "1 bridges for 2 partners"), ({"setting": {"output": "partner3"}}, "partner3"),
    ({"setting": {"output": "nobody"}}, "nobody"),
])
def test_what_contradicts_itself(arguments, said):
    with pytest.raises(StitchError, match=said):
        ensemble(*SPECS, **arguments)
    matches = [{**m, "party": "partner7"} for m in matches_of(*SPECS)]
    with pytest.raises(StitchError, match="partner7"):
        StitchedEnsemble(1, CLASSES, SPECS, matches)
