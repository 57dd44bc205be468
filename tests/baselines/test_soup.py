"""The mean of two parents' weights as an ordinary model folder."""

import json

import pytest
import torch
from close import assert_same

from nnunetv2_stitch.baselines.soup import average_weights
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.inference.stock_predictor import stock_predictor
from nnunetv2_stitch.parties.checkpoint import load_checkpoint
from nnunetv2_stitch.parties.model_folder import read_model_folder


@pytest.fixture
def world(world2d, copy_world, nnunet_env):
    return nnunet_env(copy_world(world2d))


def test_mean_of_two_folds_of_one_architecture(world):
    host = read_model_folder(str(world.model(world.host)))
    folder = average_weights(host, host, {0: 1}, "nnUNetSoupPlans")
    a, b, mean = (load_checkpoint(f"{path}/fold_{fold}/checkpoint_final.pth")["network_weights"]
                  for path, fold in ((host.path, 0), (host.path, 1), (folder, 0)))
    assert a.keys() == mean.keys()
    assert any((a[k] != b[k]).any() for k in a)
    for name, value in mean.items():
        assert_same(value, (a[name] + b[name]) / 2)
    soup = read_model_folder(folder)
    assert (soup.trainer, soup.plans_name, soup.folds) == ("nnUNetTrainer", "nnUNetSoupPlans", (0,))
    image = torch.randn(1, 1, 64, 64)
    predictor = stock_predictor(soup, [0], torch.device("cpu"))
    assert torch.isfinite(predictor.predict_logits_from_preprocessed_data(image)).all()


def test_networks_of_other_widths_cannot_be_averaged(world):
    host, partner = (read_model_folder(str(world.model(p))) for p in (world.host, world.partner))
    with pytest.raises(StitchError, match=r"cannot be averaged: decoder\.encoder\.\S* is \(8,\) and \(6,\)"):
        average_weights(host, partner, {0: 0}, "nnUNetSoupPlans")


def test_stock_predictor_answers_as_nnunets_own(world):
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    model = read_model_folder(str(world.model(world.host)))
    ours = stock_predictor(model, [0, 1], torch.device("cpu"))
    stock = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
    stock.initialize_from_trained_model_folder(model.path, use_folds=(0, 1))
    image = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours.predict_logits_from_preprocessed_data(image),
                               stock.predict_logits_from_preprocessed_data(image))


def test_stock_predictor_runs_nothing_from_a_foreign_folder(world):
    path = world.model(world.host) / "plans.json"
    plans = json.loads(path.read_text())
    plans["configurations"]["2d"]["architecture"]["network_class_name"] = "os.system"
    path.write_text(json.dumps(plans))
    with pytest.raises(StitchError, match="not allowed"):
        stock_predictor(read_model_folder(str(path.parent)), [0], torch.device("cpu"))
