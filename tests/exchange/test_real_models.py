"""Models that stock nnU-Net trained: exported, installed and run, with the same voxels as before."""

import contextlib
import io
import json
import socket
import sys
from pathlib import Path

import pytest
import torch
from exchange.zips import everything_below, require_absent
from stitched_model import ALONE, assert_equal_voxels, call, stitched_env

from nnunetv2_stitch.exchange.export import export_party
from nnunetv2_stitch.exchange.install import install_party
from nnunetv2_stitch.parties.model_folder import read_model_folder


def predict(folder, images, output):
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    output.mkdir()
    with contextlib.redirect_stdout(io.StringIO()):
        predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False, perform_everything_on_device=False)
        predictor.initialize_from_trained_model_folder(str(folder), None)
        predictor.predict_from_files_sequential(str(images), str(output))


@pytest.fixture
def elsewhere(tmp_path, monkeypatch, nnunet_env, world2d):
    """The receiver's machine: other folders, none of the sender's trainers. Call it once the sender is done."""
    nnunet_env(world2d)
    (tmp_path / "elsewhere").mkdir()

    def move():
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_extTrainer"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("nnUNet_results", str(tmp_path / "elsewhere"))
        return tmp_path / "elsewhere"
    return move


@pytest.mark.parametrize("stock", [False, True])
def test_same_voxels_after_export_and_install(stock, world2d, elsewhere, tmp_path):
    party = world2d.partner
    images = world2d.test_images(party)
    predict(world2d.model(party), images, tmp_path / "before")
    sent = export_party(read_model_folder(str(world2d.model(party))), str(tmp_path / "party.zip"), stock=stock)
    elsewhere()
    received = install_party(sent.path, "SiteB")
    predict(received.path, images, tmp_path / "after")
    assert_equal_voxels(tmp_path / "before", tmp_path / "after", 3)


def test_zip_of_stock_export_installs_and_predicts_the_same(world2d, elsewhere, tmp_path):
    from nnunetv2.model_sharing.model_export import export_pretrained_model
    party = world2d.host
    with contextlib.redirect_stdout(io.StringIO()):
        export_pretrained_model(party.dataset_id, str(tmp_path / "stock.zip"), ("2d",), "nnUNetTrainerTiny",
                                folds=(0, 1), export_crossval_predictions=True)
    predict(world2d.model(party), world2d.test_images(party), tmp_path / "before")
    results = elsewhere()
    received = install_party(str(tmp_path / "stock.zip"), "Dataset123_SiteA")
    predict(received.path, world2d.test_images(party), tmp_path / "after")
    assert_equal_voxels(tmp_path / "before", tmp_path / "after", 3)
    assert not any("validation" in name or "debug" in name for name in everything_below(results))


@pytest.mark.parametrize("stock", [False, True])
def test_no_byte_names_a_case_a_computer_or_a_folder(stock, world2d, tmp_path):
    model = read_model_folder(str(world2d.model(world2d.host)))
    sent = export_party(model, str(tmp_path / "party.zip"), name="Blobs", stock=stock)
    secrets = [f"tr_{i:03d}" for i in range(10)] + [f"ts_{i:03d}" for i in range(3)]
    secrets += [f'"{socket.gethostname()}"', str(world2d.root), str(tmp_path), "HostBlobs", "/tmp/", "/home/",
                f"{Path(__file__).resolve().parents[2]}/"]
    found = {"debug.json": "", "summary.json": ""}
    for name in found:  # the search does find them where they are
        found[name] = "".join(p.read_text() for p in world2d.model(world2d.host).rglob(name))
    # nnU-Net asks for the computer's name in a way that Python 3.13 does not take.
    assert sys.version_info >= (3, 13) or socket.gethostname() in found["debug.json"]
    assert "tr_000" in found["summary.json"]
    require_absent(sent.path, secrets)


def test_two_parties_that_call_their_dataset_alike(world2d, elsewhere, tmp_path):
    paths = [export_party(read_model_folder(str(world2d.model(p))), str(tmp_path / f"{p.name}.zip"),
                          name="Dataset001_Tumours").path for p in (world2d.host, world2d.partner)]
    results = elsewhere()
    models = [install_party(path, alias) for path, alias in zip(paths, ("SiteA", "SiteB"))]
    assert [m.dataset_name for m in models] == ["Dataset999_SiteA", "Dataset998_SiteB"]
    assert [json.loads((results / m.dataset_name / m.identifier / "party.json").read_text())["name"]
            for m in models] == ["Dataset001_Tumours"] * 2
    widths = [m.network_spec["arch_kwargs"]["features_per_stage"][0] for m in models]
    assert widths == [8, 6]


@pytest.mark.slow
def test_stock_commands_with_nothing_but_our_stock_zip(world2d, nnunet_env, tmp_path):
    """The sender's trainer is not installed here, as at most receivers'."""
    nnunet_env(world2d)
    party, images = world2d.partner, world2d.test_images(world2d.partner)
    predict(world2d.model(party), images, tmp_path / "before")
    sent = export_party(read_model_folder(str(world2d.model(party))), str(tmp_path / "party.zip"),
                        name="Dataset055_Blobs", stock=True)
    (tmp_path / "results").mkdir()
    away = {**stitched_env(world2d), "nnUNet_results": str(tmp_path / "results"), "nnUNet_raw": str(tmp_path),
            "nnUNet_preprocessed": ""}
    call("nnUNetv2_install_pretrained_model_from_zip", sent.path, env=away)
    call("nnUNetv2_predict", "-i", images, "-o", tmp_path / "after", "-d", 55, "-c", "2d", "-tr", "nnUNetTrainerTiny",
         "-f", 0, 1, *ALONE, env=away)
    assert_equal_voxels(tmp_path / "before", tmp_path / "after", 3)


@pytest.mark.slow
def test_3d(world3d, nnunet_env, tmp_path):
    nnunet_env(world3d)
    party, images = world3d.partner, world3d.test_images(world3d.partner)
    predict(world3d.model(party), images, tmp_path / "before")
    sent = export_party(read_model_folder(str(world3d.model(party))), str(tmp_path / "party.zip"))
    (tmp_path / "results").mkdir()
    received = install_party(sent.path, "SiteB", results=str(tmp_path / "results"))
    predict(received.path, images, tmp_path / "after")
    assert_equal_voxels(tmp_path / "before", tmp_path / "after", 2)
