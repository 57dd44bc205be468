"""nnUNetv2_predict_stitched: flags, and bad input: one line on stderr, exit code 2, nothing written."""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import stitched_model
from stitched_model import as_nobody, assert_equal_voxels, call, read_segmentations, stitched_env, tree

from nnunetv2_stitch.entrypoints import predict_stitched
from nnunetv2_stitch.entrypoints.common import run


@pytest.fixture
def world(stitched2d, nnunet_env):
    return nnunet_env(stitched2d.world)


@pytest.fixture
def images(world):
    return world.test_images(world.partner)


def command(*arguments):
    """As the console script: parse, then call through `run`."""
    args = predict_stitched.build_parser().parse_args([*map(str, arguments), "-device", "cpu",
                                                       "--disable_progress_bar"])
    run(lambda: predict_stitched.main(args), verbose=args.verbose, resume="--continue_prediction")


def refused(root, capsys, *arguments) -> str:
    """The one line that the command says; checks the code and that nothing was written."""
    before = tree(root), sorted(root.rglob("*"))
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        command(*arguments)
    err = capsys.readouterr().err
    assert caught.value.code == 2, err
    assert err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err, err
    assert (tree(root), sorted(root.rglob("*"))) == before
    return err


@pytest.fixture
def bad(world, images, tmp_path, capsys):
    """`bad(*flags)` with sensible -i and -o unless they are given."""
    def refuse(*flags):
        flags = list(flags)
        for flag, value in (("-i", images), ("-o", tmp_path / "out")):
            if flag not in flags:
                flags += [flag, value]
        return refused(tmp_path, capsys, *flags)
    return refuse


@pytest.mark.slow
def test_all_that_can_be_asked_for_at_once(world, images, tmp_path):
    command("-i", images, "-o", tmp_path / "a", "-d", world.host.dataset_id, "--save_disagreement",
            "--save_probabilities")
    for case in ("ts_000", "ts_001", "ts_002"):
        assert (tmp_path / "a" / f"{case}.nii.gz").is_file()
        assert (tmp_path / "a" / "disagreement" / f"{case}.nii.gz").is_file()
        probabilities = np.load(tmp_path / "a" / f"{case}.npz")["probabilities"]
        np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-3)
        assert probabilities.shape == (3, 1, 64, 64)
    command("-i", images, "-o", tmp_path / "b", "-m", stitched_folder(world), "-f", 0, 1, "-chk",
            "checkpoint_final.pth", "-step_size", 0.5)
    assert_equal_voxels(tmp_path / "a", tmp_path / "b", 3)
    for flags in (["-f", 0], ["-mode", "host"], ["-mode", "partner"]):
        command("-i", images, "-o", tmp_path / "c", "-d", world.host.dataset, *flags)
        other, default = read_segmentations(tmp_path / "c"), read_segmentations(tmp_path / "a")
        assert any((v != default[k]).any() for k, v in other.items()), flags


def stitched_folder(world):
    return world.results / world.host.dataset / f"{stitched_model.FOLDER}__2d"


def test_continuing_keeps_what_is_there(world, images, tmp_path):
    arguments = ["-i", images, "-o", tmp_path, "-d", world.host.dataset, "-f", 0, "--disable_tta"]
    command(*arguments)
    wanted = tree(tmp_path)
    (tmp_path / "ts_001.nii.gz").unlink()
    (tmp_path / "ts_002.nii.gz").write_bytes(b"mine")
    command(*arguments, "--continue_prediction")
    assert (tmp_path / "ts_002.nii.gz").read_bytes() == b"mine"
    assert tree(tmp_path)[str(tmp_path / "ts_001.nii.gz")] == wanted[str(tmp_path / "ts_001.nii.gz")]


def test_model_that_is_not_there(bad, world, tmp_path):
    assert "999" in bad("-d", 999)
    err = bad("-d", world.partner.dataset_id)
    assert "no stitched model" in err and "nnUNetv2_train_stitch" in err
    assert "-p" in bad("-d", world.host.dataset_id, "-p", "MyPlans")
    assert "nowhere does not exist" in bad("-m", tmp_path / "nowhere")
    assert "is no stitched model" in bad("-m", world.model(world.host))
    for flags in ((), ("-d", 801, "-m", tmp_path)):
        assert "either -d DATASET or -m MODEL_FOLDER" in bad(*flags)


def test_fold_or_checkpoint_that_is_not_there(bad, world):
    assert "of fold 4; it has folds 0, 1" in bad("-d", 801, "-f", 4)
    assert "no checkpoint_typo.pth" in bad("-d", 801, "-chk", "checkpoint_typo.pth")


def test_truncated_checkpoint(bad, world, tmp_path):
    folder = Path(shutil.copytree(stitched_folder(world), tmp_path / stitched_folder(world).name))
    path = folder / "fold_0" / "checkpoint_final.pth"
    path.write_bytes(path.read_bytes()[:5000])
    assert f"{path} is cut short at 5000 bytes" in bad("-m", folder)


def test_input_without_images_or_with_other_channels(bad, world, images, tmp_path):
    assert "nowhere does not exist" in bad("-d", 801, "-i", tmp_path / "nowhere")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert f"nothing to predict in {empty}" in bad("-d", 801, "-i", empty)
    for channel in range(2):
        shutil.copy(images / "ts_000_0000.nii.gz", empty / f"ts_000_{channel:04d}.nii.gz")
    assert "case ts_000" in (err := bad("-d", 801, "-i", empty)) and "has 2 channels" in err


def test_flags_that_do_not_fit(bad):
    assert "-step_size 0" in bad("-d", 801, "-step_size", 0)
    assert "-part_id 2" in bad("-d", 801, "-num_parts", 2, "-part_id", 2)


def test_predictions_of_a_previous_stage(bad):
    assert "a stitched model has no stages; leave it out" in bad("-d", 801, "-prev_stage_predictions", "x")


class Parsed(Exception):
    """Instead of what a command does with its arguments."""


def flags_of(parser) -> dict:
    return {flag: action for action in parser._actions if action.dest != "help" for flag in action.option_strings}


@pytest.mark.parametrize("entry", ["predict_entry_point", "predict_entry_point_modelfolder"])
def test_every_flag_of_the_stock_command_is_taken_and_means_the_same(entry, monkeypatch, capsys):
    """Also those of nnU-Net versions to come: what is new there fails here."""
    from nnunetv2.inference import predict_from_raw_data

    def parse_args(self, *_):
        raise Parsed(self)
    with monkeypatch.context() as patch, pytest.raises(Parsed) as caught:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        getattr(predict_from_raw_data, entry)()
    theirs, ours = flags_of(caught.value.args[0]), flags_of(predict_stitched.build_parser())
    assert len(theirs) > 15 and theirs.keys() <= ours.keys()
    for flag, action in theirs.items():
        own = ours[flag]
        assert (own.dest, own.nargs, type(own)) == (action.dest, action.nargs, type(action)), flag
        # Found rather than asked for: the model, its folds, and what suits the device.
        if flag not in ("-d", "-m", "-c", "-p", "-tr", "-f", "-device", "-npp", "-nps"):
            assert (own.default, own.required) == (action.default, action.required), flag


def test_processes_are_nnunets_own_variables_where_they_are_set(monkeypatch):
    for name in ("nnUNet_npp", "nnUNet_nps"):
        monkeypatch.delenv(name, raising=False)
        assert [predict_stitched.default_workers(name, device) for device in ("cpu", "cuda")] == [0, 3]
        monkeypatch.setenv(name, "5")
        assert [predict_stitched.default_workers(name, device) for device in ("cpu", "cuda")] == [5, 5]


def test_output_folder_that_cannot_be(bad, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert str(tmp_path / "file") in bad("-d", 801, "-o", tmp_path / "file" / "out")
    assert str(tmp_path / "file") in bad("-d", 801, "-o", tmp_path / "file")


@pytest.mark.skipif(not hasattr(os, "setresuid"), reason="needs Linux")
def test_no_write_permission(stitched2d, images, capsys):
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        root = Path(name)
        os.chmod(root, 0o755)
        model = shutil.copytree(stitched2d.folder, root / stitched2d.folder.name)
        shutil.copytree(images, root / "images")
        (root / "out").mkdir()
        os.chmod(root / "out", 0o555)
        with as_nobody():
            for out in (root / "out", root / "out" / "deeper"):
                said = refused(root, capsys, "-m", model, "-i", root / "images", "-o", out)
                assert f"no permission to write into {out}; choose another folder with -o" in said


@pytest.mark.slow
def test_the_console_script_in_a_process_of_its_own(stitched2d, tmp_path):
    """Workers for preprocessing and export, half of the cases; and one line for bad input there too."""
    world = stitched2d.world
    env = {**os.environ, **stitched_env(world)}
    script = [sys.executable, "-c", "from nnunetv2_stitch.entrypoints.predict_stitched import *; "
              "predict_stitched_entry()", "-i", str(world.test_images(world.partner)), "-device", "cpu", "-d", "801"]
    done = subprocess.run([*script, "-o", str(tmp_path / "a"), "-npp", "1", "-nps", "1", "-num_parts", "2",
                           "-part_id", "0"], env=env, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "a").glob("*.nii.gz")) == ["ts_000.nii.gz", "ts_002.nii.gz"]
    *_, said = call("nnUNetv2_predict_stitched", *script[3:], "-o", tmp_path / "b", "-f", "7", env=stitched_env(world),
                    code=2).splitlines()
    assert said.startswith("error: ") and "fold 7" in said and not (tmp_path / "b").exists()
