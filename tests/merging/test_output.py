"""The merged folder is whole or not there; statistics of BatchNorm are those of the centre's data."""

import os

import pytest
import torch
from close import assert_same
from model_folders import DATASET_JSON, make_model, plans_for, results  # noqa: F401 -- fixtures
from torch import nn

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.merging import output
from nnunetv2_stitch.parties.checkpoint import load_checkpoint
from nnunetv2_stitch.parties.find import select_model
from nnunetv2_stitch.training.batchnorm import batch_norms, measure_statistics, use_batch_statistics
from nnunetv2_stitch.training.site import Site

RECORD = {"chosen": "guided", "scored_by": "Dice", "remarks": ["One | remark."], "granularity": "stage", "fold": "0",
          "table": [{"model": "A", "kind": "member", "score": 0.5}], "groups": ["encoder 0", "heads"],
          "coefficients": {"A": [0.5, -0.2], "B": [0.4, 1.3]}, "start": {"A": 0.5, "B": 0.5},
          "search": {"method": "gradient", "loss": "task", "seed": 1}, "dataset": "Dataset001_Centre",
          "plans_name": "Merged", "members": [{"label": "A", "model": "nnUNetTrainer__nnUNetPlans__2d", "fold": "0",
                                               "sha256": "0" * 64, "training_cases": None, "licence": ""}],
          "configuration": "2d"}


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    return lambda fold=0: Site("", "Dataset001_Centre", "2d", fold, plans_for("Dataset001_Centre", "Merged", "2d"),
                               DATASET_JSON)


def test_two_folds_then_a_failure_leaves_them_as_they_were(site, tmp_path, monkeypatch):
    state = {"a.weight": torch.ones(2)}
    for fold in (0, 1):
        folder = output.check_target(site(fold))
        files = output.write_merged(folder, site(fold), state, {**RECORD, "fold": str(fold)}, (0, 1))
        assert all(os.path.isfile(f) for f in files)
    checkpoint = load_checkpoint(files[0])
    assert checkpoint["inference_allowed_mirroring_axes"] == (0, 1) and checkpoint["trainer_name"] == "nnUNetTrainer"
    card = open(files[-1]).read()
    assert "## Fold 0" in card and "## Fold 1" in card and "ask before you pass this model on" in card
    with pytest.raises(StitchError, match="already holds fold 1"):
        output.check_target(site(1))
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(output, "merge_coefficients", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        output.write_merged(folder, site(2), state, RECORD, None)
    assert sorted(tmp_path.rglob("*")) == before


def test_failure_of_the_first_fold_leaves_nothing(site, tmp_path, monkeypatch):
    folder = output.check_target(site())
    monkeypatch.setattr(output, "merged_card", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        output.write_merged(folder, site(), {}, RECORD, None)
    assert not os.path.exists(folder)


def test_another_model_of_the_same_name_is_refused(site):
    folder = output.check_target(site())
    output.write_merged(folder, site(), {}, RECORD, None)
    other = site(1)
    other.plans["configurations"]["2d"]["spacing"] = [9, 9]
    with pytest.raises(StitchError, match="holds another model"):
        output.check_target(other)


def test_a_merged_model_is_a_parent_where_it_is_named_or_alone(site, make_model, results, monkeypatch):  # noqa: F811
    """Kind: what a command writes into the host's folder makes a choice ambiguous that was none before."""
    monkeypatch.setenv("nnUNet_results", str(results))
    output.write_merged(output.check_target(site()), site(), {}, RECORD, None)
    assert select_model(1).plans_name == "Merged"
    make_model("Dataset001_Centre")
    assert select_model(1).plans_name == "nnUNetPlans" and select_model(1, plans="Merged").is_merged


def test_statistics_of_batch_norm():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.InstanceNorm2d(4)).eval()
    assert len(batch_norms(network)) == 1
    inputs = [3 + 2 * torch.randn(8, 1, 16, 16) for _ in range(3)]
    with torch.no_grad():
        maps = [network[0](x) for x in inputs]
    use_batch_statistics(network)
    network(inputs[0])
    assert (network[1].running_mean == 0).all()
    network[1].momentum = 0.1
    measure_statistics(network, inputs, torch.device("cpu"))
    norm = network[1]
    assert_same(norm.running_mean, torch.stack([m.mean((0, 2, 3)) for m in maps]).mean(0))
    assert_same(norm.running_var, torch.stack([m.var((0, 2, 3)) for m in maps]).mean(0))
    assert not norm.training and norm.momentum == 0.1
