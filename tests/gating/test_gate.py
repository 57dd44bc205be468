"""The gate in the network: at the host's end it is A alone, at even shares the stitched ensemble, at the other B."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from close import assert_same
from networks import CHANNELS, KINDS, build, ensemble, image, spec

from nnunetv2_stitch.bridging.bridge import Bridge, Intensity
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.gating.features import STD_FLOOR, first_convolutions, probe
from nnunetv2_stitch.gating.gate import Density, Gate, GateOptions
from nnunetv2_stitch.gating.signature import LEVELS, Signature
from nnunetv2_stitch.graph import trace
from nnunetv2_stitch.stitching.network import StitchedEnsemble
from nnunetv2_stitch.stitching.setting import Setting

POSITION = 9
OPTIONS = GateOptions((True,), 0.2)
SPECS = [spec(), spec(width=4, convs=1)]


@pytest.fixture(scope="module")
def parents():
    return [build(s, seed) for seed, s in enumerate((*SPECS, spec("ResidualEncoderUNet")))]


def gated(parents, specs=SPECS, options=OPTIONS, setting=Setting.average_at(POSITION), **arguments):
    """A deployed network with a gate, and the same one without."""
    net = ensemble(*specs, networks=parents, setting=setting.to_json(), gate=options.to_json(), **arguments)
    torch.manual_seed(3)
    for p in net.stitch_parameters():
        torch.nn.init.normal_(p, std=0.2)
    plain = ensemble(*specs, networks=parents, setting=setting.to_json(), **arguments)
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith("gate.")})
    return net.deployed(setting), plain.deployed(setting)


def give(net, shares):
    """Let the gate give these shares, whatever it sees; one row for each image."""
    net.gated.shares = lambda x: torch.tensor(shares, dtype=torch.float32)
    return net


def signature(features, shift=0.0, seed=0):
    random = np.random.default_rng(seed)
    return Signature.of(random.normal(shift, 1, (200, features)), random.normal(shift, 1, (100, features)))


@torch.no_grad()
@pytest.mark.parametrize("dim", [2, 3])
def test_an_image_is_answered_by_a_alone_by_the_stitched_ensemble_or_by_b_alone_to_the_last_bit(dim):
    specs = [spec(dim=dim), spec("ResidualEncoderUNet", dim, width=4)]
    parents = [build(s, seed) for seed, s in enumerate(specs)]
    net, plain = gated(parents, specs)
    x = image(dim, batch=3)
    found = give(net, [[1, 0], [0.5, 0.5], [0, 1]])(x)
    for i, wanted in enumerate((parents[0], plain, parents[1])):
        torch.testing.assert_close(found[i:i + 1], wanted(x[i:i + 1]), rtol=0, atol=0)


@torch.no_grad()
def test_one_parent_alone_is_all_that_runs_where_it_answers_wholly(parents):
    net, _ = gated(parents, options=replace(OPTIONS, wholly=0.9))
    runs = {"host": 0, "partner": 0}
    for party in runs:
        last = [m for m in getattr(net, party).modules() if isinstance(m, torch.nn.Conv2d)][-1]
        last.register_forward_hook(lambda module, inputs, out, party=party: runs.update(
            {party: runs[party] + len(out)}))
    give(net, [[0.95, 0.05], [0.6, 0.4], [0.92, 0.08], [0.01, 0.99]])(image(batch=4))
    assert runs == {"host": 3, "partner": 2}


@torch.no_grad()
@pytest.mark.parametrize("combine", ["probabilities", "logits"])
def test_shares_weigh_heads_and_switches(parents, combine):
    """Against the same network whose switches and heads have fixed weights."""
    setting = Setting.average_at(POSITION, combine=combine)
    net, _ = gated(parents, setting=setting)
    x = image(batch=2)
    found = give(net, [[0.7, 0.3], [0.2, 0.8]])(x)
    for i, share in enumerate((0.7, 0.2)):
        fixed = ensemble(*SPECS, networks=parents)
        fixed.load_state_dict({**fixed.state_dict(), **net.stitch_state()})
        fixed.apply_setting(Setting({POSITION: (1 - share, share)}, combine=combine, host_share=share))
        assert_same(found[i:i + 1].softmax(1), fixed(x[i:i + 1]).softmax(1))
    assert net.heads.shares is None and net.switch(POSITION, "host").mixing_weight == 0.5


@torch.no_grad()
@pytest.mark.parametrize("states", [("stitched", "own"), (0.3, -0.4)])
def test_switches_that_do_not_average_keep_their_weight_at_even_shares_and_lose_it_at_the_ends(parents, states):
    net, plain = gated(parents, setting=Setting({POSITION: states}))
    x = image(batch=1)
    assert_same(give(net, [[0.5, 0.5]])(x).softmax(1), plain(x).softmax(1))
    net.gated.wholly = 2  # the ends by weights, not by leaving parents out
    for share, parent in ((1.0, parents[0]), (0.0, parents[1])):
        assert_same(give(net, [[share, 1 - share]])(x).softmax(1), parent(x).softmax(1))


@torch.no_grad()
def test_several_partners_share_what_is_unlike_any(parents):
    specs = [*SPECS, spec("ResidualEncoderUNet")]
    net = ensemble(*specs, networks=parents, supernet=True, gate=replace(OPTIONS, known=(True, False)).to_json())
    by_party = {p: next(k for k in net.positions if net.party_at(k) == p) for p in net.parties[1:]}
    setting = Setting.average_at(*by_party.values())
    net, plain = gated(parents, specs, replace(OPTIONS, known=(True, False)), setting)
    x = image(batch=2)
    torch.testing.assert_close(net.gated.shares(x), torch.full((2, 3), 1 / 3), rtol=0, atol=0)  # nothing is measured
    torch.testing.assert_close(net(x), plain(x), rtol=0, atol=0)
    net.gated.wholly = 2
    shares = torch.full((2, 3), 1 / 3) + torch.tensor([1e-6, -1e-6, 0.0])
    assert_same(give(net, shares.tolist())(x).softmax(1), plain(x).softmax(1))
    for i, parent in enumerate(parents):
        assert_same(give(net, np.eye(3)[[i, i]].tolist())(x).softmax(1), parent(x).softmax(1))
    gate = Gate(replace(OPTIONS, known=(True, False)), [4, 4])
    gate.set([signature(4), signature(4, 0.2)], [signature(4, 5, 1), None], 0.2)
    own, theirs, nobodys = (gate([torch.full((1, 4), v)] * 2)[0] for v in (0.0, 5.0, 40.0))
    assert own[0] > 0.8 and own.argmax() == 0
    assert theirs[1] > 0.8 and torch.equal(nobodys, torch.full((3,), 1 / 3))


@torch.no_grad()
def test_without_a_partners_signature_the_hosts_share_is_from_one_to_even():
    gate = Gate(GateOptions((False,), 0.2), [4])
    gate.set([signature(4)], [None], 0.2)
    shares = torch.stack([gate([torch.full((1, 4), v)])[0] for v in np.linspace(0, 30, 30)])[:, 0]
    assert (shares.diff() <= 0).all() and shares[0] > 0.9 and shares[-1] == 0.5


def test_a_more_careful_gate_gives_more_even_shares():
    x = [torch.from_numpy(np.random.default_rng(5).normal(0, 1, (50, 4)))]
    means = []
    for level in LEVELS:
        gate = Gate(GateOptions((True,), level), [4])
        gate.set([signature(4)], [signature(4, 8)], level)
        means.append(float(gate(x)[:, 0].mean()))
    assert sorted(means, reverse=True) == means and means[0] > means[-1] + 0.05


@torch.no_grad()
def test_images_without_contrast_or_with_no_numbers_get_even_shares(parents):
    """No image makes the gate answer NaN: what is like nobody's, however unlike, is everybody's."""
    net, plain = gated(parents)
    features = net.gated.features("partner", torch.randn(64, CHANNELS, 16, 16)).numpy()
    own = Signature.of(features[:32], features[32:])
    net.gate.set([own], [own], 0.2)
    x = torch.stack([torch.full((CHANNELS, 16, 16), v) for v in (0.0, 1e4, float("nan"), float("inf"))])
    shares = net.gated.shares(x)
    torch.testing.assert_close(shares, torch.full((4, 2), 0.5), rtol=0, atol=0)
    assert torch.isfinite(net(x[:2])).all()
    torch.testing.assert_close(net(x[:1]), plain(x[:1]), rtol=0, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["mean", "root", "peak", "threshold"])
def test_statistics_that_are_no_numbers_leave_shares_that_are(name, value):
    """Whatever a checkpoint holds, shares are never NaN and add up to one."""
    gate = Gate(OPTIONS, [4])
    gate.set([signature(4)], [signature(4, 3)], 0.2)
    getattr(gate.host[0], name).fill_(value)
    getattr(gate.partner[0], name).fill_(value)
    shares = gate([torch.randn(8, 4, generator=torch.Generator().manual_seed(0))])
    assert torch.isfinite(shares).all() and (shares.sum(1) - 1).abs().max() < 1e-5


@torch.no_grad()
def test_the_statistics_travel_in_the_state_and_the_options_in_plain_json(parents):
    """A fold's gate comes with its weights, also where they re-specialise a network that was built otherwise."""
    net, _ = gated(parents)
    count = net.gated.sizes[0]
    net.gate.set([signature(count)], [signature(count, 3)], 0.3)
    arguments = dict(parents=SPECS, matches=net.matches, setting=Setting.average_at(3).to_json(),
                     gate=json.loads(json.dumps(OPTIONS.to_json())))
    other = StitchedEnsemble(net.input_channels, net.num_classes, **arguments)
    other.load_state_dict(net.state_dict())
    x = image()
    torch.testing.assert_close(other.gated.shares(x), net.gated.shares(x), rtol=0, atol=0)
    torch.testing.assert_close(other(x), net(x), rtol=0, atol=0)
    other.uses_gate = False
    torch.testing.assert_close(other(x), net.joined(x), rtol=0, atol=0)
    for wrong in ({}, {**OPTIONS.to_json(), "known": [True, True]}, {**OPTIONS.to_json(), "quantile": 2}):
        with pytest.raises(StitchError, match="plans.json"):
            StitchedEnsemble(1, 3, **{**arguments, "gate": wrong})


@torch.no_grad()
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_features_are_those_behind_the_first_convolution(kind, dim):
    """Of every network that can be stitched: by a hook on the first convolution that runs."""
    network = build(spec(kind, dim))
    traced = trace(network)
    found, count = probe(traced, CHANNELS)
    seen = []
    first = next(m for m in network.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Conv3d)))
    first.register_forward_hook(lambda module, inputs, out: seen.append(out.double()))
    x = image(dim)
    network(x)
    maps = seen[0].flatten(2)
    wanted = torch.cat([maps.mean(2), torch.log(maps.std(2, correction=0) + STD_FLOOR)], 1)
    assert_same(found(x), wanted.float())
    assert count == wanted.shape[1]
    two, more = probe(traced, CHANNELS, 2)
    assert len(first_convolutions(traced, CHANNELS, 2)) == 2 and two(x).shape == (len(x), more)
    torch.testing.assert_close(two(x)[:, :count], found(x), rtol=0, atol=0)


def test_density_in_single_precision_is_the_signatures():
    own = signature(12)
    density = Density(12)
    density.set(own, 0.3)
    x = np.random.default_rng(9).normal(0.5, 2, (20, 12))
    found, above = density(torch.from_numpy(x).float())
    wanted = torch.from_numpy(own.log_density(x)).float()
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(above, wanted - own.quantile(0.3), rtol=1e-4, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("quantile", [0.01, 0.5])
@pytest.mark.parametrize("lead", [0.0, 0.4])
def test_the_difference_of_densities_decides_between_parties_and_thresholds_whether_it_counts(quantile, lead):
    """However low the host's threshold lies, it does not claim what is more like the partner's."""
    host, partner = signature(4), signature(4)
    partner = Signature(partner.mean + 6, partner.covariance, partner.count, partner.quantiles)
    gate = Gate(GateOptions((True,), quantile, lead=lead), [4])
    gate.set([host], [partner], quantile)
    x = np.concatenate([np.random.default_rng(3).normal(m, 1, (20, 4)) for m in (0, 3, 6, 40)])
    found = gate([torch.from_numpy(x).float()]).double().numpy()
    densities = [s.log_density(x) for s in (host, partner)]
    above = np.max([d - s.quantile(quantile) for d, s in zip(densities, (host, partner))], 0)
    unlike = 1 / (1 + np.exp(above.clip(-500)))
    odds = np.exp((densities[1] - densities[0]).clip(-500, 500))
    np.testing.assert_allclose(found[:, 0], (1 - unlike) / (1 + odds) + unlike * (1 + lead) / 2, atol=1e-3)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)
    assert (found[60:, 0] == found[60, 0]).all() and found[60, 0] == pytest.approx((1 + lead) / 2)


@torch.no_grad()
def test_regions_are_weighed_by_sigmoids(parents):
    net, _ = gated(parents, regions=True, setting=Setting())
    x = image(batch=1)
    found = give(net, [[0.7, 0.3]])(x).sigmoid()
    assert_same(found, 0.7 * parents[0](x).sigmoid() + 0.3 * parents[1](x).sigmoid())


@torch.no_grad()
@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_a_bridged_partner_is_measured_and_answers_in_its_own_terms(parents, ratio):
    """Intensities, labels and grid of its own: features are of the bridged input, and alone it answers as ever."""
    bridge = Bridge(CHANNELS, 3, (0,), (Intensity(2.0, 1.0),), (0, 1), (ratio, ratio), (1, 1), ((0,), (2,), (1,)))
    arguments = {"bridges": [bridge.to_json()], "positions": []} if ratio != 1 else {"bridges": [bridge.to_json()]}
    net = ensemble(*SPECS, networks=parents, gate=OPTIONS.to_json(), **arguments)
    x = image(batch=2, size=32)
    net.apply_setting(Setting(output="partner"))
    wanted = net(x)
    net.apply_setting(Setting())
    torch.testing.assert_close(give(net, [[0, 1], [0, 1]])(x), wanted, rtol=0, atol=0)
    read = net.bridge.partner.input(x)
    assert read.shape[2] == int(32 * ratio)
    torch.testing.assert_close(net.gated.features("partner", x), probe(trace(parents[1]), CHANNELS)[0](read))


def test_a_gate_has_no_place_beside_a_fixed_share(parents):
    with pytest.raises(StitchError, match="host_share"):
        ensemble(*SPECS, gate=OPTIONS.to_json(), setting=Setting(host_share=0.7).to_json())


def test_a_narrow_density_has_no_claim_on_what_it_does_not_know():
    """An image that the host knows and the partner does not stays the host's, however narrow the partner's density."""
    random = np.random.default_rng(5)
    wide = Signature.of(random.normal(0, 1, (400, 8)), random.normal(0, 1, (200, 8)))
    narrow = Signature.of(random.normal(1, 0.1, (400, 8)), random.normal(1, 0.1, (200, 8)))
    seen = np.full((1, 8), 1 - 0.1 * 2.2)
    assert wide.log_density(seen) > wide.quantile(0.2) + 1 and narrow.log_density(seen) < narrow.quantile(0.01) - 5
    assert narrow.log_density(seen) > wide.log_density(seen)
    gate = Gate(GateOptions((True,), 0.2), [8])
    gate.set([wide], [narrow], 0.2)
    host, partner = gate([torch.tensor(np.concatenate([seen, np.full((1, 8), 1.0)]), dtype=torch.float32)])[:, 0]
    assert host > 0.8 and partner < 0.1
    # A model that was chosen before answers as it was chosen.
    before = {k: v for k, v in GateOptions((True,), 0.2).to_json().items() if k != "limited"}
    old = Gate(GateOptions.from_json(before, 1), [8])
    old.set([wide], [narrow], 0.2)
    lead = float((wide.log_density(seen) - narrow.log_density(seen)).item())
    unlike = torch.sigmoid(-torch.tensor(max(s.log_density(seen).item() - s.quantile(0.2) for s in (wide, narrow))))
    wanted = (1 - unlike) * torch.sigmoid(torch.tensor(lead)) + unlike / 2
    torch.testing.assert_close(old([torch.tensor(seen, dtype=torch.float32)])[0, 0].double(), wanted.double(),
                               rtol=1e-3, atol=1e-3)
    assert wanted < host
