"""Stock nnU-Net commands on a stitched model, in processes of their own, with nnU-Net's three variables and no more;
once as users start them, otherwise from a server that has imported everything."""

import json
from pathlib import Path

import pytest
from stitched_model import ALONE, assert_equal_voxels, call, console_script, stitch, stitched_env

pytestmark = pytest.mark.slow
MODEL = ("-tr", "nnUNetTrainerStitch", "-p", "nnUNetStitchPlans")


def predict(*arguments, world):
    call("nnUNetv2_predict", *arguments, *ALONE, env=stitched_env(world))


def as_users(*arguments, world):
    console_script("nnUNetv2_predict", *arguments, *ALONE, world=world)


def chain(stitched, tmp_path, predict):
    """Our prediction, both stock predictions of it, and the evaluation of them."""
    world, env = stitched.world, stitched_env(stitched.world)
    images, labels = world.test_images(world.partner), world.test_labels(world.partner)
    ours, theirs, folder = (tmp_path / name for name in ("ours", "stock", "from_folder"))
    folds = [str(f) for f in stitched.result.folds]
    call("nnUNetv2_predict_stitched", "-i", images, "-o", ours, "-d", world.host.dataset_id, "-device", "cpu", env=env)
    predict("-i", images, "-o", theirs, "-d", world.host.dataset_id, *MODEL, "-c", world.configuration, "-f", *folds,
            world=world)
    console_script("nnUNetv2_predict_from_modelfolder", "-i", images, "-o", folder, "-m", stitched.folder, "-f", *folds,
                   "-device", "cpu", "-npp", 1, "-nps", 1, world=world)
    cases = len(list(Path(labels).iterdir()))
    assert_equal_voxels(ours, theirs, cases)
    assert_equal_voxels(ours, folder, cases)
    call("nnUNetv2_evaluate_folder", labels, ours, "-djfile", stitched.folder / "dataset.json", "-pfile",
         stitched.folder / "plans.json", "-np", 1, env=env)
    dice = json.loads((ours / "summary.json").read_text())["foreground_mean"]["Dice"]
    assert 0 < dice <= 1


def test_chain_2d(stitched2d, tmp_path):
    chain(stitched2d, tmp_path, as_users)


def test_chain_3d(stitched3d, tmp_path):
    chain(stitched3d, tmp_path, predict)


def test_find_best_configuration_export_and_install_elsewhere(stitched2d, copy_world, nnunet_env, thread_pools,
                                                              tmp_path):
    world = nnunet_env(copy_world(stitched2d.world))
    result = stitch(world, only_validation=True, save_probabilities=True)
    assert list(Path(result.model_folder, "fold_0", "validation").glob("*.npz"))
    env, host = stitched_env(world), world.host.dataset_id
    call("nnUNetv2_find_best_configuration", host, *MODEL, "-c", world.configuration, "-f", 0, 1,
         "--disable_ensembling", "-np", 1, env=env)
    best = json.loads((Path(result.model_folder).parent / "inference_information.json").read_text())
    assert "nnUNetTrainerStitch__nnUNetStitchPlans" in json.dumps(best["best_model_or_ensemble"])

    exported, elsewhere = tmp_path / "model.zip", tmp_path / "elsewhere"
    call("nnUNetv2_export_model_to_zip", "-d", host, "-o", exported, *MODEL, "-c", world.configuration, "-f", 0, 1,
         env=env)
    elsewhere.mkdir()
    away = {**env, "nnUNet_results": str(elsewhere)}
    call("nnUNetv2_install_pretrained_model_from_zip", exported, env=away)
    images = world.test_images(world.host)
    here, there = tmp_path / "here", tmp_path / "there"
    call("nnUNetv2_predict_stitched", "-i", images, "-o", here, "-d", host, "-device", "cpu", env=env)
    call("nnUNetv2_predict", "-i", images, "-o", there, "-d", world.host.dataset, *MODEL, "-c", world.configuration,
         "-f", 0, 1, *ALONE, env=away)
    assert_equal_voxels(here, there, len(list(Path(world.test_labels(world.host)).iterdir())))
