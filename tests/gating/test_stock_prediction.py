"""Stock nnU-Net answers as we do with a gate, whatever the parties: several, bridged, region-based, in 3d, mirrored."""

import contextlib
import io
from pathlib import Path

import pytest
import torch
from bridging.conftest import altered  # noqa: F401 -- a fixture
from gating.untrained import LEAD, gated_folder, images_of_all_kinds
from other_terms import ct, grid, heads_swapped, relabelled
from stitched_model import assert_equal_voxels, stock_prediction

from nnunetv2_stitch.bridging.names import NO_MAPS, NameMaps
from nnunetv2_stitch.inference.predictor import StitchedPredictor
from nnunetv2_stitch.parties.model_folder import read_model_folder

pytestmark = pytest.mark.slow


def in_regions(dataset) -> None:
    dataset.update(labels={"background": 0, "both": [1, 2], "b": 2}, regions_class_order=[1, 2])


def two_outputs(weights) -> None:
    weights.update({k: v[1:] for k, v in weights.items() if ".seg_layers." in k})


def require_all_ways(model: Path, images: Path, own_model: str, root: Path) -> None:
    """Stock's voxels are ours, on images that A, B or both answer; at share 1 they are those of A's own model under
    stock nnU-Net, at even shares those of the stitched ensemble without a gate."""
    predictor = StitchedPredictor(device=torch.device("cpu"), allow_tqdm=False)
    with contextlib.redirect_stdout(io.StringIO()):
        predictor.initialize_from_trained_model_folder(str(model), 0)
    network, parties = predictor.network, len(predictor.network.parties)

    def ours(name: str) -> Path:
        with contextlib.redirect_stdout(io.StringIO()):
            predictor.predict_from_files_sequential(str(images), str(root / name))
        return root / name

    cases = len(list(images.iterdir()))
    gated, (a, b, nobodys) = ours("ours"), torch.tensor(predictor.case_shares)
    assert a[0] > 0.9 and b[0] < 0.1, (a, b)
    torch.testing.assert_close(nobodys[0].item(), LEAD + (1 - LEAD) / parties)
    assert_equal_voxels(gated, stock_prediction(model, images, root / "stock"), cases)
    for name, given in (("alone", torch.eye(parties)[0]), ("even", torch.full((parties,), 1 / parties))):
        network.gated.shares = lambda x, given=given: given.expand(len(x), -1)
        ours(name)
    assert_equal_voxels(root / "alone", stock_prediction(Path(own_model), images, root / "own"), cases)
    network.uses_gate = False
    assert_equal_voxels(root / "even", ours("without"), cases)


def test_in_3d(world3d, nnunet_env, tmp_path):
    nnunet_env(world3d)
    folders = [world3d.test_images(p) for p in world3d.parties]
    host, partner = (read_model_folder(str(world3d.model(p))) for p in world3d.parties)
    model = gated_folder(tmp_path / "model", host, [partner], folders)
    require_all_ways(model, images_of_all_kinds(tmp_path / "images", folders), host.path, tmp_path)


def test_three_parties_one_of_them_bridged(world2d, altered, tmp_path):  # noqa: F811
    """The third is the partner on another grid, of other intensities, its labels in another order; the signature that
    it brings is of its own images."""
    def plans(p):
        grid(0.8, 80)(p)
        ct(20.0, 90.0, -200.0, 250.0)(p)

    host, partner = (read_model_folder(str(world2d.model(p))) for p in world2d.parties)
    third = altered(world2d.model(world2d.partner), plans, relabelled, heads_swapped, "Dataset803_Third")
    folders = [world2d.test_images(p) for p in world2d.parties]
    maps = [NO_MAPS, NameMaps({"first": "a", "second": "b"}, {})]
    model = gated_folder(tmp_path / "model", host, [partner, third], [*folders, folders[1]], maps)
    require_all_ways(model, images_of_all_kinds(tmp_path / "images", folders), host.path, tmp_path)


def test_regions(world2d, altered, tmp_path):  # noqa: F811
    host, partner = (altered(world2d.model(p), None, in_regions, two_outputs, f"Dataset89{i}_Regions")
                     for i, p in enumerate(world2d.parties))
    folders = [world2d.test_images(p) for p in world2d.parties]
    model = gated_folder(tmp_path / "model", host, [partner], folders)
    require_all_ways(model, images_of_all_kinds(tmp_path / "images", folders), host.path, tmp_path)
