"""What an earlier version wrote is read, predicted with, installed and continued. tests/data/make_before.py made it."""

import json
import tarfile
from pathlib import Path

import pytest
import torch
import world as worlds
from stitched_model import assert_equal_voxels, run_entry, stock_prediction

from nnunetv2_stitch.parties.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow

ARCHIVE = Path(__file__).resolve().parents[1] / "data" / "before.tar.xz"
HALF, ADAPTED = "nnUNetStitchPlansHalf", "nnUNetAdaptedPlansHalf"
LENGTH = ["-f", "0", "-epochs", "3", "-iterations", "2", "-device", "cpu", "--disable_progress_bar", "--c"]


@pytest.fixture
def world(tmp_path, nnunet_env, thread_pools) -> worlds.World:
    """The earlier version's own small world, in a folder that it has never seen."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path / "world", filter="data")
    found = nnunet_env(worlds.World(tmp_path / "world", 2))
    (found.preprocessed / found.partner.dataset).mkdir()
    return found


def command(capsys, *arguments) -> str:
    """One of our commands in this process; what it prints."""
    capsys.readouterr()
    run_entry([str(a) for a in arguments])
    return capsys.readouterr().out


def begun(folder: Path) -> dict:
    """The logging of the checkpoint that a training was interrupted with."""
    return load_checkpoint(str(folder / "fold_0" / "checkpoint_best.pth"))["logging"]


def continued(folder: Path, before: dict) -> None:
    """The first epoch is the earlier version's, the others are new."""
    after = torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=True)["logging"]
    assert len(before["train_losses"]) == 1 and len(after["train_losses"]) == 3
    assert after["train_losses"][0] == before["train_losses"][0]
    logs = "".join(p.read_text() for p in (folder / "fold_0").glob("training_log_*.txt"))
    assert "Epoch 1" in logs and "Epoch 0" not in logs


def test_a_stitched_model_answers_as_then_ours_and_stock(world, tmp_path, capsys):
    images, then = world.test_images(world.partner), world.root / "predicted"
    command(capsys, "nnUNetv2_predict_stitched", "-i", images, "-o", tmp_path / "ours", "-d", world.host.dataset_id,
            "-p", "nnUNetStitchPlans", "-device", "cpu")
    assert_equal_voxels(tmp_path / "ours", then, 3)
    folder = world.results / world.host.dataset / "nnUNetTrainerStitch__nnUNetStitchPlans__2d"
    assert_equal_voxels(stock_prediction(folder, images, tmp_path / "stock"), then, 3)


def test_an_export_is_looked_at_and_installed_with_its_signature(world, capsys):
    sent = world.root / "partner.zip"
    said = command(capsys, "nnUNetv2_stitch_info", world.host.dataset_id, "-m_b", sent)
    assert "SiteB" in said and "spacing" in said
    assert "CC BY 4.0" in command(capsys, "nnUNetv2_install_party", sent, "-as", "SiteB")
    folder, = world.results.glob("Dataset*_SiteB/*")
    assert json.loads((folder / "fold_0" / "signature.json").read_text())["count"] > 0
    own, theirs = (load_checkpoint(str(f / "fold_0" / "checkpoint_final.pth"))["network_weights"]
                   for f in (folder, world.model(world.partner)))
    assert own.keys() == theirs.keys() and all(torch.equal(v, theirs[k]) for k, v in own.items())


def test_a_training_of_stitches_that_was_interrupted_goes_on(world, capsys):
    folder = world.results / world.host.dataset / f"nnUNetTrainerStitch__{HALF}__2d"
    before = begun(folder)
    said = command(capsys, "nnUNetv2_train_stitch", world.host.dataset_id, world.partner.dataset_id, "-positions",
                   "2,20,41", "-o_p", HALF, *LENGTH)
    assert "Chosen position" in said and (folder / "fold_0" / "validation" / "summary.json").is_file()
    continued(folder, before)


def test_an_adaptation_that_was_interrupted_goes_on(world, capsys):
    folder = world.results / world.host.dataset / f"nnUNetTrainerAdapted__{ADAPTED}__2d"
    before = begun(folder)
    said = command(capsys, "nnUNetv2_adapt_party", world.host.dataset_id, "-m_b", world.model(world.partner), "-o_p",
                   ADAPTED, *LENGTH)
    assert "\nalpha 0.5: " in said.replace("=== ", "")
    continued(folder, before)
