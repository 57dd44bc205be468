import copy
from itertools import cycle, product

import pytest
import torch
from close import assert_same
from networks import build, ensemble, image, spec
from reference import literally_doubled_loss

from nnunetv2_stitch.fitting.closed_form import DirectMatching, all_average
from nnunetv2_stitch.fitting.double_batched import double_batched_loss, errors_of_streams, relative_error
from nnunetv2_stitch.stitching.setting import STATES, Setting


def gradients(net, loss):
    net.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in net.stitch_parameters()]


def make(dim=2, partner=None, norm="InstanceNorm"):
    specs = spec(dim=dim, norm=norm), spec(dim=dim, norm=norm, **(partner or {}))
    net = ensemble(*specs, networks=[build(s, seed) for seed, s in enumerate(specs)])
    matching = DirectMatching(net)
    matching.update(image(dim))
    matching.solve()
    return net


@pytest.mark.parametrize("dim,partner,norm", [(2, None, "InstanceNorm"), (2, None, "BatchNorm"),
                                              (2, {"kind": "ResidualEncoderUNet"}, "InstanceNorm"),
                                              (3, None, "InstanceNorm")])
def test_equals_a_literally_doubled_batch_in_loss_and_gradients(dim, partner, norm):
    net = make(dim, partner, norm).double()
    x = image(dim, seed=3).double()
    for setting in (all_average(net), Setting(dict(zip(net.positions, cycle(product(STATES, STATES))))),
                    Setting({p: "stitched" for p in net.positions}), Setting()):
        net.apply_setting(setting)
        wanted = literally_doubled_loss(net, x)
        wanted_gradients = gradients(net, wanted)
        for segments in (1, 5):
            got = net(x, objective=lambda n, v, segments=segments: double_batched_loss(n, v, segments))
            assert_same(got, wanted, precision=torch.float32)
            # All on one scale: those of a bias in front of a norm are zero but for rounding.
            assert_same(*(torch.cat([g.flatten() for g in all_of]) for all_of in
                          (gradients(net, got), wanted_gradients)), precision=torch.float32)


def test_training_lowers_the_loss_with_every_stitch_active_and_leaves_the_parents_alone():
    net = make()
    before = copy.deepcopy({k: v for k, v in net.state_dict().items() if k.startswith(("host", "partner"))})
    net.apply_setting(all_average(net))
    optimizer = torch.optim.AdamW(net.stitch_parameters(), 3e-3, weight_decay=0)
    losses = []
    for step in range(30):
        optimizer.zero_grad()
        loss = net(image(seed=step % 3), objective=double_batched_loss)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    after = net.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items())


def test_every_stitch_learns_even_where_its_switch_is_own():
    net = make()
    net.apply_setting(Setting())
    net(image(), objective=double_batched_loss).backward()
    biases = [p for n, p in net.named_parameters() if n.endswith("stitch.bias")]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in biases)


def test_the_loss_is_the_sum_of_what_is_compared_at_switches_and_at_heads():
    net = make()
    net.apply_setting(all_average(net))
    x = image()
    whole, (switches, heads) = double_batched_loss(net, x), errors_of_streams(net, x)
    assert switches > 0 and heads > 0
    assert_same(whole, switches + heads)


def test_relative_error_gradient():
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    target = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda v: relative_error(v, target).double(), (x,), atol=1e-3, rtol=1e-3, eps=1e-3)
    constant = torch.ones(1, 1, 4, 4)
    assert torch.isfinite(relative_error(constant + 1, constant))
