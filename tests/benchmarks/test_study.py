"""The study from raw images, short: parents are planned and trained by it, both directions compared, figures drawn."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest

STUDY = Path(__file__).resolve().parents[2] / "benchmarks" / "study.py"
ROWS = ["A_alone", "plain_ensemble", "direct"]


@pytest.mark.slow
def test_study(world2d, copy_world, nnunet_env, thread_pools, monkeypatch, capsys, tmp_path):
    world = nnunet_env(copy_world(world2d))
    arguments = ["study", str(tmp_path), "-seeds", "1", "-folds", "0", "-both", "-rows", *ROWS, "-raw",
                 str(world.raw), "-datasets", world.host.dataset, world.partner.dataset,
                 "-trainer", "nnUNetTrainerTiny", "-stitch_epochs", "1", "-stitch_iterations", "2"]
    monkeypatch.setattr(sys, "argv", arguments)
    runpy.run_path(str(STUDY), run_name="__main__")
    studies = json.loads((tmp_path / "study.json").read_text())
    assert list(studies) == [world.host.dataset, world.partner.dataset]
    for host, (study,) in studies.items():
        assert study["folds"] == [0] and len(study["dice"]) == len(ROWS)
        assert set(study["curves"]) == {"direct"}
        for dice in study["dice"].values():
            assert set(dice) == set(studies) and all(0 <= value <= 1 for value in dice.values())
        page = tmp_path / "seed_1" / f"comparison_{host}_hosts"
        assert (page / "comparison.json").is_file()
    for name in ("active_stitches", "positions"):
        assert all((tmp_path / f"{name}{s}.png").stat().st_size > 5000 for s in ("", "_B_hosts"))
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.pth")}
    runpy.run_path(str(STUDY), run_name="__main__")  # nothing is trained again
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.pth")} == before
    assert "A alone" in capsys.readouterr().out

    # A further partner, a copy of the first: parents that are there are used.
    names = [world.host.dataset, world.partner.dataset, "Dataset803_Third"]
    for folder in ("raw", "preprocessed", "results"):
        folder = tmp_path / "seed_1" / f"nnUNet_{folder}"
        shutil.copytree(folder / names[1], folder / names[2])
        for path in (folder / names[2]).rglob("*.json"):
            path.write_text(path.read_text().replace(names[1], names[2]))
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.pth")}
    monkeypatch.setattr(sys, "argv", ["several_parties", str(tmp_path), "-raw", str(world.raw), "-datasets", *names,
                                      "-trainer", "nnUNetTrainerTiny", "-stitch_epochs", "1",
                                      "-stitch_iterations", "2"])
    runpy.run_path(str(STUDY.with_name("several_parties.py")), run_name="__main__")
    assert before.items() <= {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.pth")}.items()
    out = capsys.readouterr().out
    assert "C alone" in out and "with C only" in out
    assert (tmp_path / "seed_1" / "several_parties" / "report.html").is_file()
