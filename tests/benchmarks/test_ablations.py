"""Every ablation script runs on real parents and prints a table of numbers; nothing of it stays behind."""

import importlib
import random
import re
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nnunetv2_stitch.fitting.closed_form import Moments

ABLATIONS = Path(__file__).resolve().parents[2] / "benchmarks" / "ablations"
SCRIPTS = sorted(p.stem for p in ABLATIONS.glob("*.py") if p.stem != "lab")


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_ablation(script, world2d, copy_world, nnunet_env, thread_pools, monkeypatch, capsys):
    world = nnunet_env(copy_world(world2d))
    before = sorted(world.root.rglob("*"))
    monkeypatch.syspath_prepend(str(ABLATIONS))
    monkeypatch.setattr(importlib.import_module("lab"), "SWEPT", 2)
    monkeypatch.setattr(sys, "argv", [script, world.host.dataset, world.partner.dataset, "-steps", "2",
                                      "-batches", "2"])
    runpy.run_path(str(ABLATIONS / f"{script}.py"), run_name="__main__")
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(table) >= 4  # head, rule, and at least two ways to compare
    assert sum(bool(re.search(r"\d", row)) for row in table) >= 2
    assert sorted(world.root.rglob("*")) == before


@pytest.fixture
def ablation(monkeypatch):
    """`ablation(name)`: what a script defines, by name."""
    monkeypatch.syspath_prepend(str(ABLATIONS))
    return lambda name: runpy.run_path(str(ABLATIONS / f"{name}.py"))


def test_sampled_settings_repeat_with_the_seed_and_use_every_state(ablation):
    sample_setting = ablation("switches")["sample_setting"]
    net = SimpleNamespace(positions=range(12))
    assert sample_setting(net, random.Random(5)) == sample_setting(net, random.Random(5))
    rng = random.Random(0)
    states = [s for _ in range(20) for pair in sample_setting(net, rng).switches.values() for s in pair]
    assert {"own", "stitched", "average"} == set(states)


def test_kept_variance_is_the_targets_and_least_squares_has_less(ablation):
    variance = ablation("variance")
    torch.manual_seed(0)
    a = 3 + torch.randn(4, 3, 8, 8)
    b = torch.einsum("oc,bcxy->boxy", torch.randn(5, 3), a) + torch.randn(4, 5, 8, 8)
    solutions = []
    for moments in (Moments(3, 5), variance["VarianceKept"](3, 5)):
        moments.update(a, b)
        solutions.append(moments.solve()[0])
    plain, kept = solutions
    flat_a, flat_b = (m.transpose(0, 1).flatten(1) for m in (a, b))
    fitted = {name: s.weight @ flat_b + s.bias[:, None] for name, s in (("plain", plain), ("kept", kept))}
    assert (fitted["plain"].var(1) < 0.99 * flat_a.var(1)).all()
    torch.testing.assert_close(fitted["kept"].var(1), flat_a.var(1), rtol=1e-3, atol=0)
    torch.testing.assert_close(fitted["kept"].mean(1), flat_a.mean(1), rtol=1e-3, atol=1e-3)
