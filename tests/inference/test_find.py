"""Which model a prediction means, and what is wrong with a folder, in one line."""

import shutil

import pytest
import torch

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.inference.find import find_stitched_model
from nnunetv2_stitch.inference.predictor import StitchedPredictor
from nnunetv2_stitch.parties.model_folder import folds_to_use


@pytest.fixture
def folder(stitched2d, tmp_path):
    """A copy of the model folder alone, in a results folder of its own."""
    return shutil.copytree(stitched2d.folder, tmp_path / stitched2d.world.host.dataset / stitched2d.folder.name)


def load(folder, *arguments, **options):
    predictor = StitchedPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), *arguments, **options)
    return predictor


def refused(match, *arguments, **options):
    with pytest.raises(StitchError, match=match) as caught:
        load(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_a_model_folder_needs_nothing_but_itself(folder, monkeypatch):
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(name, raising=False)
    assert len(load(folder).list_of_parameters) == 2
    assert len(load(folder, (1,)).list_of_parameters) == 1
    assert len(load(folder, 0).list_of_parameters) == 1
    assert len(load(folder, None, "checkpoint_best.pth").list_of_parameters) == 2


def test_a_fold_that_is_missing(folder):
    refused("no checkpoint_final.pth of fold 3; it has folds 0, 1; choose with -f", folder, (0, 3))
    shutil.move(folder / "fold_0", folder / "fold_0_old")  # is no fold, as one that was set aside
    assert folds_to_use(str(folder), None, "checkpoint_final.pth") == [1]
    shutil.rmtree(folder / "fold_1")
    refused("it has folds none", folder)


def test_a_checkpoint_that_is_missing(folder):
    refused("no checkpoint_latest.pth of fold 0", folder, None, "checkpoint_latest.pth")


def test_a_truncated_checkpoint(folder):
    path = folder / "fold_1" / "checkpoint_final.pth"
    path.write_bytes(path.read_bytes()[:-1000])
    refused("fold_1/checkpoint_final.pth is cut short", folder)
    load(folder, (0,))


def test_a_checkpoint_of_another_network(folder, stitched2d):
    world = stitched2d.world
    shutil.copy(world.model(world.host) / "fold_0" / "checkpoint_final.pth", folder / "fold_0")
    refused("fold_0/checkpoint_final.pth holds no stitched ensemble", folder)


def test_a_checkpoint_without_a_tensor(folder):
    path = folder / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(path, weights_only=True)
    name = next(k for k in checkpoint["network_weights"] if k.startswith("host."))
    del checkpoint["network_weights"][name]
    torch.save(checkpoint, path)
    with pytest.raises(StitchError) as caught:
        load(folder)
    assert str(path) in str(caught.value)


def test_a_folder_that_is_no_stitched_model(folder, stitched2d):
    world = stitched2d.world
    refused("is no stitched model but a plain network; give a folder that nnUNetv2_train_stitch made",
            world.model(world.host))
    refused("does not exist; give a model folder", folder / "nowhere")
    refused("plans.json does not exist", folder / "fold_0")


def test_an_unknown_mode(folder):
    refused("mode 'both' is not one of stitched, ensemble, host, partner", folder, mode="both")


def test_the_one_stitched_model_is_found_among_others_and_several_are_listed(folder, monkeypatch):
    monkeypatch.setenv("nnUNet_results", str(folder.parents[1]))
    shutil.copytree(folder, folder.parent / "nnUNetTrainerX__nnUNetPlans__3d_fullres")  # of another configuration
    shutil.copytree(folder, folder.parent / f"{folder.name}_old")  # set aside: no configuration of its plans
    (folder.parent / "ensembles").mkdir()
    assert find_stitched_model("801") == str(folder)
    assert find_stitched_model("Dataset801_HostBlobs", "2d", "nnUNetTrainerStitch", "nnUNetStitchPlans") == str(folder)
    other = shutil.copytree(folder, folder.parent / "nnUNetTrainerStitch__MyPlans__2d")
    with pytest.raises(StitchError, match="several stitched models.*MyPlans__2d.*nnUNetStitchPlans__2d.*-p"):
        find_stitched_model("801")
    assert find_stitched_model("801", plans="MyPlans") == str(other)
    with pytest.raises(StitchError, match="no stitched model.*nnUNetv2_train_stitch"):
        find_stitched_model("801", configuration="3d_fullres")
    with pytest.raises(StitchError, match="no models of dataset 999.*Dataset801_HostBlobs"):
        find_stitched_model("999")
    monkeypatch.delenv("nnUNet_results")
    with pytest.raises(StitchError, match="nnUNet_results is not set.*-m"):
        find_stitched_model("801")
