"""The exact tests that any implementation of stitching must pass (METHOD: identity, permuted twin, own, exchange)."""

import pytest
import torch
from close import assert_same
from networks import KINDS, build, ensemble, image, spec

from nnunetv2_stitch.fitting.closed_form import DirectMatching
from nnunetv2_stitch.stitching.layers import mean_softmax_as_logits
from nnunetv2_stitch.stitching.setting import SIDES, STATES, Setting

DIMS = pytest.mark.parametrize("dim", [2, 3])


def set_identity(net):
    for position in net.positions:
        for side in SIDES:
            switch = net.switch(position, side)
            switch.set_affine(torch.eye(switch.stitch.out_channels), torch.zeros(switch.stitch.out_channels))


def every_setting(net):
    """All switches alike in each state, mixed ones, and single ones; with every output."""
    positions = net.positions
    switches = [{p: s for p in positions} for s in STATES]
    switches.append({p: (STATES[p % 3], STATES[(p + 1) % 3]) for p in positions})
    switches += [{p: s} for p in positions[::7] for s in STATES[1:]]
    return [Setting(s, output) for s in switches for output in ("ensemble", "host", "partner")]


@DIMS
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_twins_with_identity_stitches_are_the_parent_in_every_setting(kind, dim):
    network = build(spec(kind, dim))
    net = ensemble(spec(kind, dim), spec(kind, dim), networks=[network, network]).double()
    set_identity(net)
    x = image(dim).double()
    wanted = network.double()(x)
    for setting in every_setting(net):
        net.apply_setting(setting)
        got = net(x)
        if setting.output == "ensemble":
            assert_same(got, wanted.log_softmax(1))
        else:
            assert_same(got, wanted)


def permute_hidden_channels(traced, seed=0):
    """Permute the hidden channels of a plain U-Net in place, consistently; its function stays the same.

    Walks the graph: every convolution's output is permuted at random, consumers undo it, so all stitches between the
    network and its twin are permutations.
    """
    generator = torch.Generator().manual_seed(seed)
    order = {}
    modules = dict(traced.named_modules())
    nodes = list(traced.graph.nodes)
    head = nodes[-1].args[0]
    for node in nodes[:-1]:
        if node.op == "placeholder":
            order[node] = torch.arange(1)
        elif node.op == "call_function":
            parts, offset = [], 0
            for source in node.args[0]:
                parts.append(order[source] + offset)
                offset += len(order[source])
            order[node] = torch.cat(parts)
        else:
            module, before = modules[node.target], order[node.args[0]]
            if isinstance(module, torch.nn.modules.conv._ConvNd):
                transposed = isinstance(module, torch.nn.modules.conv._ConvTransposeNd)
                weight = module.weight.data
                weight = weight[before] if transposed else weight[:, before]
                out = module.out_channels
                after = torch.arange(out) if node is head else torch.randperm(out, generator=generator)
                module.weight.data = weight[:, after] if transposed else weight[after]
                module.bias.data = module.bias.data[after]
                order[node] = after
            else:
                if getattr(module, "weight", None) is not None:
                    module.weight.data, module.bias.data = module.weight.data[before], module.bias.data[before]
                order[node] = before
    return {n.name: o for n, o in order.items()}


@DIMS
@torch.no_grad()
def test_direct_matching_recovers_a_permuted_twin(dim):
    net = ensemble(spec(dim=dim), spec(dim=dim), networks=[build(spec(dim=dim)), build(spec(dim=dim))])
    from nnunetv2_stitch.graph import trace
    twin = build(spec(dim=dim))
    traced = trace(twin)
    order = permute_hidden_channels(traced)
    weights = traced.state_dict()
    net.partner.load_state_dict({k: weights[k] for k in net.partner.state_dict()})
    x = image(dim, batch=4, size=32 if dim == 2 else 16)
    wanted = build(spec(dim=dim))(x)
    net.apply_setting(Setting(output="partner"))
    assert_same(net(x), wanted)  # the twin is the same function

    matching = DirectMatching(net, ridge=1e-9)
    matching.update(x)
    scores = matching.solve()
    assert min(min(s) for s in scores.values()) > 0.9999
    activations = [p for p in net.positions if net.matches[p]["host_path"].endswith("norm")]
    for position in activations:
        permutation = torch.eye(net.matches[position]["host_channels"])[order[net.matches[position]["partner"]]]
        weight = net.switch(position, "partner").stitch.weight.flatten(1)
        torch.testing.assert_close(weight, permutation, rtol=0, atol=0.02)
    for setting in every_setting(net):
        net.apply_setting(setting)
        got = net(x)
        reference = wanted.log_softmax(1) if setting.output == "ensemble" else wanted
        torch.testing.assert_close(got, reference, rtol=0, atol=0.02 * float(wanted.std()) + 5e-3)


@DIMS
@pytest.mark.parametrize("partner", [{}, {"kind": "ResidualEncoderUNet", "stages": 4, "width": 4}])
@torch.no_grad()
def test_all_own_is_the_plain_ensemble(dim, partner):
    specs = spec(dim=dim), spec(dim=dim, **partner)
    parents = [build(s, seed) for seed, s in enumerate(specs)]
    net = ensemble(*specs, networks=parents)
    x = image(dim)
    a, b = (p(x) for p in parents)
    mean = (a.softmax(1) + b.softmax(1)) / 2
    assert_same(net(x).softmax(1), mean)
    torch.testing.assert_close(net(x), mean_softmax_as_logits([a, b]), rtol=0, atol=0)
    net.apply_setting(Setting(combine="logits"))
    torch.testing.assert_close(net(x), (a + b) / 2, rtol=0, atol=0)
    for output, logits in (("host", a), ("partner", b)):
        net.apply_setting(Setting(output=output))
        torch.testing.assert_close(net(x), logits, rtol=0, atol=0)


@DIMS
@torch.no_grad()
def test_exact_stitches_both_stitched_exchange_the_parents(dim):
    """With B a rescaled twin of A from some layer on, exact stitches swap the remainders of the two networks."""
    specs = spec(dim=dim), spec(dim=dim)
    parents = [build(s, seed) for seed, s in enumerate(specs)]
    # The same encoder, other decoders: identity is the exact stitch in the encoder.
    parents[1].encoder.load_state_dict(parents[0].encoder.state_dict())
    net = ensemble(*specs, networks=parents)
    set_identity(net)
    x = image(dim)
    a, b = (p(x) for p in parents)
    last_encoder = max(p for p in net.positions if net.matches[p]["host_path"].startswith("encoder"))
    net.apply_setting(Setting({last_encoder: "stitched"}, "host"))
    torch.testing.assert_close(net(x), a, rtol=0, atol=0)
    # In the decoder the remainder before the head: swapping the maps and undoing nothing gives the other's features.
    final = net.positions[-1]
    net.apply_setting(Setting({final: "stitched"}, "host"))
    swapped = net.host.get_submodule("decoder.seg_layers.1")
    from nnunetv2_stitch.graph import features
    other = features(parents[1], ["decoder.stages.1"], x)["decoder.stages.1"]
    torch.testing.assert_close(net(x), swapped(other), rtol=0, atol=0)
