"""Every ablation script runs on real parents and prints a table of numbers; nothing of it stays behind."""

import re
import runpy
import sys
from pathlib import Path

import pytest

ABLATIONS = Path(__file__).resolve().parents[2] / "benchmarks" / "ablations"
SCRIPTS = sorted(p.stem for p in ABLATIONS.glob("*.py") if p.stem != "lab")


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_ablation(script, world2d, copy_world, nnunet_env, monkeypatch, capsys):
    world = nnunet_env(copy_world(world2d))
    before = sorted(world.root.rglob("*"))
    monkeypatch.syspath_prepend(str(ABLATIONS))
    monkeypatch.setattr(sys, "argv", [script, world.host.dataset, world.partner.dataset, "-steps", "2",
                                      "-batches", "2"])
    runpy.run_path(str(ABLATIONS / f"{script}.py"), run_name="__main__")
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(table) >= 4  # head, rule, and at least two ways to compare
    assert sum(bool(re.search(r"\d", row)) for row in table) >= 2
    assert sorted(world.root.rglob("*")) == before
