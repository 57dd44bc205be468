"""What nnU-Net allows labels, axes and mirroring to be: from training to prediction, against stock nnU-Net."""

import contextlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess
from nnunetv2.run.run_training import run_training
from other_terms import transposed, turned
from stitched_model import SHORT, assert_equal_voxels, read_segmentations, stitch, stock_prediction

from nnunetv2_stitch.inference.predictor import StitchedPredictor
from nnunetv2_stitch.pipeline import train_stitch
from nnunetv2_stitch.selection.party_sweep import sweep_party

pytestmark = pytest.mark.slow
TINY = "nnUNetTrainerTiny"


@pytest.fixture
def world(world2d, copy_world, nnunet_env, thread_pools):
    return nnunet_env(copy_world(world2d))


def edit(path: Path, change) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def preprocess_again(world, party) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        preprocess([party.dataset_id], "nnUNetPlans", ["2d"], [1], show_progress_bar=False)


def stock(world, output: Path, folder, mirroring: bool = True) -> Path:
    return stock_prediction(folder, world.test_images(world.host), output, mirroring=mirroring)


def ours(world, output: Path, folder: str, mode: str = "stitched", mirroring: bool = True) -> Path:
    predictor = StitchedPredictor(device=torch.device("cpu"), allow_tqdm=False, use_mirroring=mirroring)
    predictor.initialize_from_trained_model_folder(folder, mode=mode)
    predictor.predict_from_files_sequential(str(world.test_images(world.host)), str(output))
    return output


def as_stock_predicts(world, result, tmp_path) -> None:
    theirs = stock(world, tmp_path / "stock", result.model_folder)
    assert_equal_voxels(ours(world, tmp_path / "ours", result.model_folder), theirs, 3)


def ignore_a_corner(labels: Path) -> None:
    for path in labels.glob("*.nii.gz"):
        image = sitk.ReadImage(str(path))
        array = sitk.GetArrayFromImage(image)
        array[:, :20, :20] = 3
        changed = sitk.GetImageFromArray(array)
        changed.CopyInformation(image)
        sitk.WriteImage(changed, str(path))


def test_regions_of_one_label_in_lists_with_an_ignore_label(world, tmp_path):
    host = world.host
    terms = {"labels": {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}, "regions_class_order": [1, 2]}
    ignore_a_corner(world.raw / host.dataset / "labelsTr")
    for path in (world.raw, world.preprocessed):
        edit(path / host.dataset / "dataset.json", lambda d: d.update(terms))
    preprocess_again(world, host)
    shutil.rmtree(world.model(host))
    torch.manual_seed(0)
    with contextlib.redirect_stdout(io.StringIO()):
        run_training(host.dataset, "2d", 0, TINY, device=torch.device("cpu"))
    # The partner: the same network, its regions named in another order.
    partner = world.results / "Dataset805_Other" / world.model(host).name
    shutil.copytree(world.model(host), partner, ignore=shutil.ignore_patterns("validation"))
    edit(partner / "dataset.json", lambda d: d.update(
        labels={"background": 0, "core": [1], "whole": [1, 2], "ignore": 3}, regions_class_order=[1, 2]))
    path = partner / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(path, weights_only=False)
    weights = checkpoint["network_weights"]
    weights.update({k: v[[1, 0]] for k, v in weights.items() if ".seg_layers." in k})
    torch.save(checkpoint, path)

    result = train_stitch(host.dataset_id, 805, device="cpu", progress=False, **SHORT)
    as_stock_predicts(world, result, tmp_path)
    alone = stock(world, tmp_path / "alone", world.model(host))
    for mode in ("host", "partner"):
        assert_equal_voxels(ours(world, tmp_path / mode, result.model_folder, mode), alone, 3)
    assert {1, 2} == set(np.unique(np.stack(list(read_segmentations(alone).values())))) - {0}
    summary = json.loads(Path(result.model_folder, "fold_0", "validation", "summary.json").read_text())
    assert set(summary["mean"]) == {"(1, 2)", "(2,)"} and summary["metric_per_case"][0]["metrics"]["(2,)"]["n_ref"] > 0
    row, validated = result.table[0], json.loads(
        (world.model(host) / "fold_0" / "validation" / "summary.json").read_text())["foreground_mean"]["Dice"]
    swept = sweep_party(result.model_folder, host.dataset_id, device="cpu", progress=False).sweeps[0]  # from raw files
    assert abs(swept.baselines["host"] - row["A"]) < 1e-6
    assert abs(row["A"] - validated) < 0.03 and abs(row["A"] - row["B"]) < 1e-6  # mirroring is the difference


@pytest.mark.parametrize(("host_axes", "partner_axes", "both"), [((0, 1), (0,), (1,)), ((0,), None, None)])
def test_partial_or_no_mirroring_where_one_party_has_its_axes_in_another_order(world, tmp_path, host_axes, partner_axes,
                                                                               both):
    """The host reads images transposed: the partner's first axis is its second."""
    model = world.model(world.host)
    for path in (model / "plans.json", world.preprocessed / world.host.dataset / "nnUNetPlans.json"):
        edit(path, transposed)
    preprocess_again(world, world.host)
    theirs = world.model(world.partner)
    for folder, axes, change in ((model, host_axes, turned), (theirs, partner_axes, lambda weights: None)):
        path = folder / "fold_0" / "checkpoint_final.pth"
        checkpoint = torch.load(path, weights_only=False)
        change(checkpoint["network_weights"])
        torch.save({**checkpoint, "inference_allowed_mirroring_axes": axes}, path)
    result = stitch(world, **SHORT)
    assert result.table[0]["A"] > 0.8  # the images are read along the axes that the network was turned to
    for name in ("final", "best"):
        path = Path(result.model_folder, "fold_0", f"checkpoint_{name}.pth")
        assert torch.load(path, weights_only=True)["inference_allowed_mirroring_axes"] == both
    as_stock_predicts(world, result, tmp_path)
    plain = stock(world, tmp_path / "plain", model, False)
    assert_equal_voxels(ours(world, tmp_path / "host", result.model_folder, "host", False), plain, 3)
    # Mirrored along the one axis that it knows, in its own order of axes, the partner answers as in its own pipeline.
    own = read_segmentations(stock(world, tmp_path / "partner", theirs))
    found = read_segmentations(ours(world, tmp_path / "bridged", result.model_folder, "partner"))
    assert all((found[k] == v).mean() > 0.999 for k, v in own.items())
