"""The main job with two partners, one of them under other terms and from a zip."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from other_terms import ct, grid, heads_swapped, relabelled
from partner_site import command, refused

from nnunetv2_stitch.entrypoints import predict_stitched, sweep_stitched, train_stitch

MODEL = "nnUNetTrainerStitch__nnUNetStitchPlans__2d"


@pytest.fixture
def third(world2d, altered, tmp_path):
    """The partner's second fold, on another grid, with another normalisation and other labels, as it is sent."""
    def plans(p):
        grid(0.8, 80)(p)
        ct(20.0, 90.0, -200.0, 250.0)(p)
    model = altered(world2d.model(world2d.partner), plans, relabelled, heads_swapped, "Dataset803_Third")
    shutil.rmtree(Path(model.path) / "fold_0")
    folder = Path(model.path)
    sent = shutil.make_archive(str(tmp_path / "third"), "zip", folder.parent.parent, folder.parent.name)
    return folder, sent


@pytest.mark.slow
def test_three_parties(world2d, copy_world, nnunet_env, third, tmp_path, monkeypatch, capsys, stock_prediction,
                       agreement, thread_pools):
    folder, sent = third
    world = nnunet_env(copy_world(world2d))
    monkeypatch.chdir(tmp_path)
    Path("map.json").write_text('{"first": "a", "second": "b"}')
    parties = ["801", "802", "-m_b", sent, "-label_map", "-", "map.json", "-f", "0"]
    training = [*parties, "-positions", "blocks", "-epochs", "1", "-iterations", "3"]
    command(train_stitch, *training, "--dry_run")
    out = capsys.readouterr().out
    assert "partner2 Dataset803_Third" in out and "(partner2)" in out and out.count("verdict") == 2
    command(train_stitch, *training)
    out = capsys.readouterr().out
    model = world.results / world.host.dataset / MODEL
    assert out.count("Chosen position: ") == 2 and (model / "matches_partner2.png").is_file()
    selection = json.loads((model / "stitch_selection.json").read_text())
    row, positions = selection["validation_dice"][0], selection["positions"]["0"]
    assert {"A", "B", "C", "plain ensemble", "with B only", "with C only", "chosen"} < set(row) and len(positions) == 2
    matches = json.loads((model / "plans.json").read_text())["configurations"]["2d"]["architecture"]["arch_kwargs"][
        "matches"]
    assert [matches[p]["party"] for p in positions] in (["partner", "partner2"], ["partner2", "partner"])
    weights = torch.load(model / "fold_0" / "checkpoint_final.pth", weights_only=True)["network_weights"]
    assert {k.split(".")[0] for k in weights} >= {"host", "partner", "partner2", "switches"}
    card = (model / "MODEL_CARD.md").read_text()
    assert r"Dataset803\_Third" in card and card.count(", nnUNetPlans, 2d |") == 3

    # The first two answer as ever, the third as its own pipeline would, and stock nnU-Net as we do.
    images = world.test_images(world.partner)
    answers = {}
    for mode in ("stitched", "host", "partner", "partner2", "ensemble"):
        command(predict_stitched, "-i", images, "-o", tmp_path / mode, "-m", model, "-mode", mode, "--disable_tta",
                *(["--save_disagreement"] if mode == "stitched" else []))
        answers[mode] = read(tmp_path / mode)
    assert agreement(answers["host"], stock_prediction(world.model(world.host), images, tmp_path / "a")) == 1
    assert agreement(answers["partner"], stock_prediction(world.model(world.partner), images, tmp_path / "b")) == 1
    own = stock_prediction(folder, images, tmp_path / "c", 1)
    assert agreement(answers["partner2"], {k: np.choose(v, [0, 2, 1]) for k, v in own.items()}) > 0.97
    stock = stock_prediction(model, images, tmp_path / "stock")
    assert all(np.array_equal(stock[k], answers["stitched"][k]) for k in stock)
    assert any((answers["stitched"][k] != answers["ensemble"][k]).any() for k in stock)
    assert max(v.max() for v in read(tmp_path / "stitched" / "disagreement").values()) > 50
    capsys.readouterr()
    assert "mode 'partner3' is not one of stitched, ensemble, host, partner, partner2" in refused(
        tmp_path, capsys, predict_stitched, "-i", images, "-o", tmp_path / "x", "-m", model, "-mode", "partner3")

    # Numbers of one partner travel back, and choose a position with each.
    command(sweep_stitched, "-m", model, "-d", "802", "-o", "sent.json")
    command(train_stitch, *parties, "-positions", "blocks", "--select", "-sweeps", "sent.json", "-prefer", "partner")
    out = capsys.readouterr().out
    assert out.count("Pareto front") == 2 and "one position at a time" in out
    assert (model / "pareto.png").is_file() and (model / "pareto_partner2.png").is_file()
    assert json.loads((model / "stitch_selection.json").read_text())["rule"] == "pareto"
    first, second = (next(p for p, m in enumerate(matches) if m["party"] == name) for name in ("partner", "partner2"))
    command(train_stitch, *parties, "-positions", "blocks", "--select", "-position", first, second)
    assert json.loads((model / "stitch_selection.json").read_text())["positions"]["0"] == sorted([first, second])
    assert not list(model.glob("pareto*.png"))
    for wrong, said in (([first], "0 with partner2"), ([first, first], "2 with partner"), ([first, 999], "999")):
        err = refused(model, capsys, train_stitch, *parties, "-positions", "blocks", "--select", "-position", *wrong)
        assert said in err
    command(train_stitch, *training, "--c")
    assert "stitches are trained" in capsys.readouterr().out
    assert "other parents, positions or checkpoints" in refused(
        model, capsys, train_stitch, "801", "802", "-f", "0", "-positions", "blocks", "--c")


def read(folder: Path) -> dict:
    import SimpleITK as sitk
    return {f.name: sitk.GetArrayFromImage(sitk.ReadImage(str(f))) for f in sorted(Path(folder).glob("*.nii.gz"))}
