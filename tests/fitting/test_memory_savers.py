"""What saves memory in training must not change what is trained, and must save memory."""

import pytest
import torch
from close import assert_same
from networks import build, ensemble, image, spec
from torch.profiler import ProfilerActivity, profile

from nnunetv2_stitch.fitting.closed_form import DirectMatching, all_average
from nnunetv2_stitch.fitting.cutting import best_cuts, equal_cuts
from nnunetv2_stitch.fitting.double_batched import double_batched_loss, groups
from nnunetv2_stitch.fitting.live_bytes import LiveBytes
from nnunetv2_stitch.pipeline.memory import forward_bytes, step_bytes, training_need
from nnunetv2_stitch.stitching.runner import GraphRunner
from nnunetv2_stitch.stitching.setting import Setting

SHAPE = (2, 1, 32, 32)


@pytest.fixture(scope="module")
def net():
    specs = spec(), spec("ResidualEncoderUNet")
    net = ensemble(*specs, networks=[build(s, seed) for seed, s in enumerate(specs)], positions=range(0, 36, 3))
    matching = DirectMatching(net)
    matching.update(image())
    matching.solve()
    net.apply_setting(all_average(net))
    return net


def allocated(call) -> int:
    """Peak of what torch allocates on the CPU."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    peak = now = 0
    for event in (e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def step(net, x, *args, **options):
    net.zero_grad()
    loss = double_batched_loss(net, x, *args, **options)
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in net.named_parameters() if p.grad is not None}


def twin_of(net, setting):
    net.apply_setting(setting)
    return net.without_memory()


def test_any_cuts_give_the_same_loss_and_gradients(net):
    net.apply_setting(all_average(net))
    x = image(size=32)
    loss, gradients = step(net, x)
    runner = GraphRunner(net.joined)
    auto = best_cuts(net.without_memory(), SHAPE)
    assert len(auto) > 1 and sorted(auto)[-1] < len(runner.nodes) - 1
    for cuts in (auto, [1], 7):
        other, found = step(net, x, cuts)
        assert_same(other, loss)
        assert found.keys() == gradients.keys()
        for name, g in gradients.items():
            assert_same(found[name], g, message=name)


@pytest.mark.slow
def test_the_cuts_that_are_searched_need_least_memory(net):
    twin = twin_of(net, all_average(net))
    nodes = len(GraphRunner(twin.joined).nodes) - 1
    auto = step_bytes(twin, SHAPE, best_cuts(twin, SHAPE))
    others = [step_bytes(twin, SHAPE, cuts) for cuts in
              (equal_cuts(nodes, n) for n in (4, 12, 20))]
    assert auto <= min(others) and auto < 0.5 * step_bytes(twin, SHAPE)


def test_stitches_take_turns_and_need_less_memory(net):
    x = image()
    every, turns = list(net.positions), groups(net.positions, 4)
    assert sorted(sum(turns, [])) == every and all(len(t) <= 4 for t in turns)
    assert groups(every, None) == groups(every, 1000) == [every]
    trained = set()
    for turn in turns:
        assert turn[-1] - turn[0] > 0.7 * (every[-1] - every[0])  # along the whole network
        net.apply_setting(Setting.average_at(*turn))
        loss, gradients = step(net, x, compared=set(turn))
        assert {int(n.split(".")[1]) for n in gradients} == set(turn)
        assert all(torch.isfinite(g).all() and g.abs().sum() > 0 for n, g in gradients.items() if n.endswith("bias"))
        whole, _ = step(net, x)  # at the others untouched maps are compared with what stitches make of them
        assert not torch.isclose(loss, whole)
        trained |= gradients.keys()
    assert trained == {n for n, p in net.named_parameters() if p.requires_grad}
    few = twin_of(net, Setting.average_at(*turns[0]))
    assert step_bytes(few, SHAPE, compared=turns[0]) < 0.9 * step_bytes(twin_of(net, all_average(net)), SHAPE)


def test_a_group_of_all_positions_is_the_usual_loss(net):
    net.apply_setting(all_average(net))
    assert torch.equal(step(net, image(), compared=set(net.positions))[0], step(net, image())[0])


@pytest.mark.slow
def test_half_targets_leave_the_loss_alone_and_the_gradients_nearly(net):
    net.apply_setting(all_average(net))
    x = image(size=32)
    cuts = best_cuts(net.without_memory(), SHAPE)
    loss, gradients = step(net, x, cuts)
    for way in (1, cuts):
        rounded, found = step(net, x, way, keep=torch.bfloat16)
        assert torch.equal(rounded, loss)
        error = sum((found[n] - g).square().sum() for n, g in gradients.items())
        assert 0 < (error / sum(g.square().sum() for g in gradients.values())).sqrt() < 0.01
    twin = net.without_memory()
    assert step_bytes(twin, SHAPE, keep=torch.bfloat16) < 0.95 * step_bytes(twin, SHAPE)
    assert step_bytes(twin, SHAPE, cuts, keep=torch.bfloat16) < step_bytes(twin, SHAPE, cuts)


@pytest.mark.parametrize("way", ["plain", pytest.param("auto", marks=pytest.mark.slow),
                                 pytest.param("a group", marks=pytest.mark.slow)])
def test_the_estimate_is_what_a_step_allocates(net, way):
    group = groups(net.positions, 4)[0] if way == "a group" else net.positions
    twin = twin_of(net, Setting.average_at(*group))
    compared = group if way == "a group" else None
    shape = (4, 1, 64, 64)  # large enough for maps to outweigh the rest
    cuts = best_cuts(twin, shape, compared) if way == "auto" else 1
    x = image(batch=4, size=64)
    net.zero_grad()
    measured = allocated(lambda: step(net, x, cuts, compared=compared))
    assert 0.9 * measured < step_bytes(twin, shape, cuts, compared) < 1.1 * measured


@torch.inference_mode()
@pytest.mark.parametrize(("dim", "size"), [(2, 96), (3, 32)])
def test_the_estimate_is_what_a_prediction_allocates(dim, size):
    net = ensemble(spec(dim=dim, width=16), spec(dim=dim, width=16))  # oneDNN pads other numbers of channels
    x = image(dim=dim, batch=1, size=size)
    for setting in (Setting.average_at(net.positions[0]), Setting.average_at(net.positions[-6])):
        deployed = net.deployed(setting)
        deployed(x)
        measured = allocated(lambda deployed=deployed: deployed(x))
        estimate = forward_bytes(net.without_memory().deployed_without_memory(setting), x.to("meta"), cpu_copies=True)
        assert 0.8 * measured < estimate < 1.2 * measured


def test_live_bytes_count_a_tensor_from_its_making_to_its_end():
    with LiveBytes() as live:
        a = torch.empty(1000, device="meta")
        b = a.view(10, 100) * 2
        assert live.now == 8000
        del a
        c = b.sum()
        assert live.now == 4004
        del b, c
    assert (live.now, live.peak) == (0, 8000)


@pytest.mark.slow
def test_need_of_training_counts_weights_and_the_optimisers_state(net):
    twin = twin_of(net, all_average(net))
    need = training_need(twin, SHAPE)
    weights = 4 * sum(p.numel() for p in twin.parameters())
    stitches = 4 * sum(p.numel() for p in twin.stitch_parameters())
    assert need.full == step_bytes(twin, SHAPE) + weights + 2 * stitches
    assert 0.5 * need.full < need.mixed < 0.8 * need.full
    assert training_need(twin, SHAPE, "auto").full < need.full
