"""The benchmark of rounds from raw images, short: every way to merge is measured on every party's cases."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest
from world import thread_pools

ROUNDS = Path(__file__).resolve().parents[2] / "benchmarks" / "rounds.py"


@pytest.mark.slow
def test_rounds(world2d, nnunet_env, monkeypatch, capsys, tmp_path):
    world = nnunet_env(world2d)
    for kind in ("raw", "preprocessed", "results"):  # the centre's model is there, and is the start
        shutil.copytree(getattr(world, kind) / world.host.dataset,
                        tmp_path / "seed_1" / f"nnUNet_{kind}" / world.host.dataset)
    monkeypatch.setattr(sys, "argv", [
        "rounds", str(tmp_path), "-raw", str(world.raw), "-datasets", world.host.dataset, world.partner.dataset,
        "-rounds", "1", "-epochs", "1", "-iterations", "2", "-steps", "1", "-trainer", "nnUNetTrainerTiny"])
    with thread_pools():
        runpy.run_path(str(ROUNDS), run_name="__main__")
    (study,) = json.loads((tmp_path / "rounds.json").read_text())
    start, first = study["rounds"]
    assert set(start["test"]["the common start"]) == {"A", "B"}
    ways = {"uniform soup", "greedy soup", "FedAvg weighting", "Fisher merging", "guided"}
    assert set(first["test"]) == {"A", "B"} | ways == set(first["validation"])
    assert all(0 <= dice <= 1 for row in first["test"].values() for dice in row.values())
    table = (tmp_path / "rounds.md").read_text()
    assert "## Round 1" in table and table.count("written") == 1
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.pth")}
    with thread_pools():
        runpy.run_path(str(ROUNDS), run_name="__main__")  # nothing is trained or merged again
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.pth")} == before
    assert "A's test cases" in capsys.readouterr().out
