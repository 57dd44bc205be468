"""Parents as they lie about: a host with fold `all` alone, or a fold beyond the splits, or one checkpoint only."""

import contextlib
import io
import json
import shutil
from pathlib import Path

import pytest
import torch
from distill_steps import short
from stitched_model import SHORT, assert_equal_voxels, stitch, stock_prediction

from nnunetv2_stitch.entrypoints import stitch_info, train_stitch
from nnunetv2_stitch.entrypoints.common import run
from nnunetv2_stitch.entrypoints.parties import parties_of
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.exchange.parents import find_parties
from nnunetv2_stitch.inference.predictor import StitchedPredictor
from nnunetv2_stitch.pipeline import Request, prepare

BEST, FINAL = "checkpoint_best.pth", "checkpoint_final.pth"


@pytest.fixture
def world(world2d, copy_world, nnunet_env, thread_pools):
    return nnunet_env(copy_world(world2d))


def only(folder: Path, name: str) -> None:
    """As it is with a training that has not ended (best), or a model that was installed (final)."""
    for path in folder.glob("fold_*/checkpoint_*.pth"):
        if path.name != name:
            path.unlink()


@pytest.fixture
def unlike(world):
    """The host's training has not ended, the partner's model was installed."""
    only(world.model(world.host), BEST)
    only(world.model(world.partner), FINAL)
    return world


def arguments(*flags):
    return train_stitch.build_parser().parse_args([*map(str, flags)])


def test_each_party_has_a_checkpoint_of_its_own(unlike, capsys):
    request = Request(unlike.host.dataset_id, unlike.partner.dataset_id, folds=[0])
    for given in ({}, {"checkpoint_name": BEST}, {"checkpoint_a": FINAL, "checkpoint_b": FINAL}):
        with pytest.raises(StitchError, match="has no fold with checkpoint_.*: finish its training or choose"):
            prepare(Request(**{**vars(request), **given}))
    for given in ({"checkpoint_a": BEST}, {"checkpoint_name": BEST, "checkpoint_b": FINAL}):
        job = prepare(Request(**{**vars(request), **given}))
        assert (job.host.checkpoint_name, job.partner.checkpoint_name) == (BEST, FINAL)
    recorded = job.plans["configurations"]["2d"]["stitching"]["parents"]
    assert [p["checkpoint"] for p in recorded] == [BEST, FINAL]
    for model_a, model_b in ((None, unlike.model(unlike.partner)), (unlike.model(unlike.host), None)):
        host, (partner,) = find_parties(
            None if model_a else 801, model_a, None, None, None, Request(
                None, None if model_b else 802, model_b=model_b, checkpoint_b=FINAL).partners, BEST)
        assert (host.checkpoint_name, partner.checkpoint_name) == (BEST, FINAL)
    info = stitch_info.build_parser().parse_args(["801", "802", "-chk_a", BEST])
    run(lambda: stitch_info.main(info))
    assert "mirroring axes" in capsys.readouterr().out


def test_further_partners_have_theirs(unlike):
    shutil.copytree(unlike.results / unlike.partner.dataset, unlike.results / "Dataset805_Third")
    third = unlike.results / "Dataset805_Third" / unlike.model(unlike.partner).name
    for path in third.glob("fold_*/checkpoint_final.pth"):
        path.rename(path.with_name(BEST))
    args = arguments(801, 802, 805, "-chk", BEST, "-chk_b", FINAL, "-")
    found = parties_of(args)
    host, partners = find_parties(801, None, None, None, None, Request(
        801, 802, checkpoint_b=found["checkpoint_b"], more=found["more"]).partners, args.chk, found["checkpoint_a"])
    assert [p.checkpoint_name for p in (host, *partners)] == [BEST, FINAL, BEST]
    with pytest.raises(StitchError, match="-chk_b has 3 values for 2 partners"):
        parties_of(arguments(801, 802, 805, "-chk_b", FINAL, FINAL, FINAL))


@pytest.mark.slow
def test_a_host_of_fold_all_whose_training_has_not_ended(unlike, tmp_path, monkeypatch):
    """From training to prediction, and on to a student; the host's part answers as stock nnU-Net with that checkpoint.
    (What was trained was set up as nnU-Net sets up its own training, too.)"""
    model = unlike.model(unlike.host)
    (model / "fold_0").rename(model / "fold_all")
    shutil.rmtree(model / "fold_1")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    result = stitch(unlike, checkpoint_a=BEST, **{**SHORT, "folds": None})
    assert result.folds == ["all"] and torch.backends.cudnn.benchmark
    sweep = json.loads(Path(result.model_folder, "fold_all", "sweep.json").read_text())
    assert sweep["cases"] == 10
    folder = Path(result.model_folder)
    images = unlike.test_images(unlike.host)
    stitched = stock_prediction(folder, images, tmp_path / "stock", "all")
    alone = stock_prediction(model, images, tmp_path / "alone", "all", BEST)
    predictor = StitchedPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder))
    for mode, wanted in (("stitched", stitched), ("host", alone)):
        predictor.set_mode(mode)
        predictor.predict_from_files_sequential(str(images), str(tmp_path / mode))
        assert_equal_voxels(tmp_path / mode, wanted, 3)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    student = short(unlike, folds=None)
    assert student.folds == ["all"] and Path(student.model_folder, "fold_all", FINAL).is_file()
    assert torch.backends.cudnn.benchmark


@pytest.mark.slow
def test_a_fold_beyond_the_splits_is_swept_and_searched_on_the_cases_that_nnunet_left_out(world):
    model = world.model(world.host)
    shutil.copytree(model / "fold_0", model / "fold_4")
    with contextlib.redirect_stdout(io.StringIO()):
        result = stitch(world, rule="guided", search_steps=1, **{**SHORT, "folds": [4]})
    folder = Path(result.model_folder, "fold_4")
    assert result.folds == [4] and (folder / "guided_mixing.json").is_file()
    assert json.loads((folder / "sweep.json").read_text())["cases"] == 2
    validated = json.loads((folder / "validation" / "summary.json").read_text())["metric_per_case"]
    assert len(validated) == 2  # by nnU-Net's own split
