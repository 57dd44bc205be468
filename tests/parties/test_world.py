"""The worlds that other tests rely on are what they say."""

import os

import numpy as np
import pytest


def cross_dice(world) -> np.ndarray:
    """Mean foreground Dice of [host's, partner's] model (rows) on [host's, partner's] test cases (columns)."""
    import torch
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    io, parties, table = SimpleITKIO(), (world.host, world.partner), np.zeros((2, 2))
    for row, owner in enumerate(parties):
        predictor = nnUNetPredictor(use_mirroring=False, perform_everything_on_device=False, allow_tqdm=False,
                                    device=torch.device("cpu"))
        predictor.initialize_from_trained_model_folder(str(world.model(owner)), world.folds)
        for column, party in enumerate(parties):
            scores = []
            for path in sorted(world.test_images(party).iterdir()):
                image, properties = io.read_images([str(path)])
                found = predictor.predict_single_npy_array(image, properties)
                truth, _ = io.read_seg(str(world.test_labels(party) / path.name.replace("_0000", "")))
                scores += [2 * ((found == k) & (truth[0] == k)).sum() / ((found == k).sum() + (truth == k).sum())
                           for k in (1, 2)]
            table[row, column] = np.mean(scores)
    return table


def check(world):
    table = cross_dice(world)
    assert table.diagonal().min() > 0.75, table
    assert (table.diagonal() > np.array([table[1, 0], table[0, 1]]) + 0.1).all(), table


def test_each_party_is_good_on_its_own_images_only(world2d, nnunet_env):
    check(nnunet_env(world2d))


@pytest.mark.slow
def test_3d_too(world3d, nnunet_env):
    check(nnunet_env(world3d))


def test_a_copy_leaves_the_shared_world_alone(world2d, copy_world, nnunet_env):
    copy = nnunet_env(copy_world(world2d))
    assert os.environ["nnUNet_results"] == str(copy.results) != str(world2d.results)
    plans = copy.model(copy.host) / "plans.json"
    plans.unlink()
    assert (world2d.model(world2d.host) / "plans.json").is_file()


def test_nothing_is_set_outside_a_test():
    assert not {"nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "nnUNet_extTrainer"} & set(os.environ)
