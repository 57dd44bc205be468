"""The order of a deployed network's nodes: nothing is computed otherwise, and little is alive at once."""

import operator

import pytest
import torch
from networks import CHANNELS, CLASSES, build, ensemble, image, spec

from nnunetv2_stitch.graph import layer_nodes, trace
from nnunetv2_stitch.pipeline.memory import forward_bytes
from nnunetv2_stitch.stitching.description import build_parent
from nnunetv2_stitch.stitching.ordering import peak_of, relative_sizes
from nnunetv2_stitch.stitching.setting import Setting


def sizes_of(net):
    layers = {p: layer_nodes(trace(build_parent(s, CHANNELS, CLASSES)), CHANNELS)
              for p, s in zip(net.parties, net.parents)}
    return relative_sizes(layers, net.matches, {})


def in_place_of(joined):
    modules = dict(joined.named_modules())
    return frozenset(n for n in joined.graph.nodes if n.target is operator.iadd
                     or getattr(modules.get(str(n.target)), "inplace", False))


def least_peak(joined, sizes, in_place):
    """Over all orders that keep each parent's own order: every way through the grid of how far either parent is."""
    nodes = list(joined.graph.nodes)
    x, *middle, heads, _ = nodes
    chains = [[n for n in middle if party in (n.name.split("_")[0], n.name.split("_")[-1])] or [] for party in
              ("host", "partner")]
    assert sum(map(len, chains)) == len(middle)
    best = {(0, 0): 0.0}
    for i in range(len(chains[0]) + 1):
        for j in range(len(chains[1]) + 1):
            done = {x, *chains[0][:i], *chains[1][:j]}
            here = best.get((i, j))
            if here is None:
                continue
            alive = sum(sizes.get(n.name, 0) for n in done
                        if any(u not in done for u in n.users) and not (n.users.keys() & in_place & done))
            for chain, at, then in ((chains[0], i, (i + 1, j)), (chains[1], j, (i, j + 1))):
                if at < len(chain) and set(chain[at].all_input_nodes) <= done:
                    peak = max(here, alive + (0 if chain[at] in in_place else sizes.get(chain[at].name, 0)))
                    best[then] = min(peak, best.get(then, peak))
    return best[len(chains[0]), len(chains[1])]


@pytest.mark.parametrize("kinds", [("ResidualEncoderUNet", "PlainConvUNet"),
                                   pytest.param(("PlainConvUNet",) * 2, marks=pytest.mark.slow)])
def test_no_order_of_two_parents_needs_much_less(kinds):
    net = ensemble(*(spec(k) for k in kinds))
    sizes = sizes_of(net)
    for position in net.positions[::7]:
        joined = net.deployed(Setting.average_at(position)).joined
        in_place = in_place_of(joined)
        assert in_place
        found = peak_of(list(joined.graph.nodes), sizes, in_place)
        assert found <= 1.05 * least_peak(joined, sizes, in_place)


@pytest.mark.slow
@torch.no_grad()
def test_several_active_positions_and_partners_compute_the_same_in_the_new_order():
    specs = spec(), spec("ResidualEncoderUNet"), spec(width=4)
    net = ensemble(*specs, networks=[build(s, seed) for seed, s in enumerate(specs)])
    by_party = {p: [k for k in net.positions if net.party_at(k) == p] for p in net.parties[1:]}
    x = image()
    for setting in (Setting.average_at(*(own[len(own) // 2] for own in by_party.values())),
                    Setting.average_at(*net.positions[::9]),
                    Setting({own[3]: "stitched" for own in by_party.values()})):
        net.apply_setting(setting)
        assert torch.equal(net.deployed(setting)(x), net(x))


@pytest.mark.slow
def test_prediction_needs_the_maps_of_about_one_parent():
    """As nnU-Net's own forward pass of one of them; the plain order of the joined graph needs more."""
    x = image(batch=1, size=64).to("meta")
    with torch.device("meta"):
        alone = forward_bytes(build_parent(spec(stages=4), CHANNELS, CLASSES).eval(), x)
        net = ensemble(*[spec(stages=4)] * 2)
        # Most maps wait for one another where they are largest: at the last concatenation.
        largest = next(p for p in net.positions[::-1] if net.matches[p]["host"].startswith("cat"))
        needs = [forward_bytes(net.deployed_without_memory(Setting.average_at(p)), x)
                 for p in (*net.positions[::8], largest)]
    assert max(needs) <= 1.15 * alone


@torch.no_grad()
def test_half_weights_answer_the_same_under_autocast_and_stay_half():
    specs = spec(), spec("ResidualEncoderUNet")
    net = ensemble(*specs, networks=[build(s, seed) for seed, s in enumerate(specs)])
    x, settings = image(), (Setting.average_at(4), Setting.average_at(7, output="host"))
    exact = [net.deployed(s) for s in settings]
    half = net.deployed(Setting())
    half.store_convolutions(torch.bfloat16)
    for deployed in (*exact, exact[0]):
        half.load_state_dict(deployed.state_dict())
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(half(x), deployed(x))
        kinds = {n.rsplit(".", 1)[0].rsplit(".", 1)[-1]: p.dtype for n, p in half.named_parameters()}
        assert kinds["conv"] == kinds["stitch"] == torch.bfloat16 and kinds["norm"] == torch.float32
