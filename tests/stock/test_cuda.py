"""On a GPU: whatever trains, trains there; answers are those of stock nnU-Net there. Skipped where torch sees none."""

import math
from pathlib import Path

import pytest
import torch
from distill_steps import short
from stitched_model import SHORT, read_segmentations, stitch

from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.inference.predictor import StitchedPredictor
from nnunetv2_stitch.parties.checkpoint import load_checkpoint

pytestmark = [pytest.mark.slow,
              pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA GPU")]


@pytest.fixture
def world(world2d, copy_world, nnunet_env, thread_pools):
    return nnunet_env(copy_world(world2d))


@pytest.fixture
def stitched_world(stitched2d, copy_world, nnunet_env, thread_pools):
    return nnunet_env(copy_world(stitched2d.world))


def weights(folder) -> dict:
    return load_checkpoint(str(Path(folder, "fold_0", "checkpoint_final.pth")))["network_weights"]


def differing(a: Path, b: Path) -> float:
    """Share of voxels that two folders of segmentations do not agree on."""
    one, two = read_segmentations(a), read_segmentations(b)
    assert one.keys() == two.keys() and one
    return sum(int((v != two[k]).sum()) for k, v in one.items()) / sum(v.size for v in one.values())


@pytest.mark.parametrize("options", [
    {"fit": "double_batched"},
    {"fit": "double_batched", "checkpoint_segments": "auto", "half_targets": True, "positions_per_pass": 2},
    {"fit": "direct"},
    {"fit": "task"},
], ids=["double_batched", "memory savers", "direct", "task"])
def test_stitches_train_on_a_gpu(world, options):
    result = stitch(world, device="cuda", **SHORT, **options)
    assert all(torch.isfinite(v).all() for v in weights(result.model_folder).values() if v.is_floating_point())
    assert all(math.isfinite(v) for row in result.table for v in row.values() if isinstance(v, float))
    assert (Path(result.model_folder) / "fold_0" / "validation" / "summary.json").is_file()


def test_direct_matching_finds_on_a_gpu_what_it_finds_on_a_cpu(world):
    """The same images, seen through features in half precision and in single precision."""
    found = {}
    for device in ("cpu", "cuda"):
        result = stitch(world, device=device, fit="direct", plans_name=f"nnUNetStitchPlans{device}", **SHORT)
        found[device] = read_json(str(Path(result.model_folder, "fold_0", "direct_matching.json")))
    for position, r2 in found["cpu"].items():
        assert found["cuda"][position] == pytest.approx(r2, abs=0.02)


def test_students_and_merged_models_train_on_a_gpu(stitched_world):
    from nnunetv2_stitch.merging.run import MergeRequest, merge_guided
    from nnunetv2_stitch.training import train_from_merged
    world = stitched_world
    student = short(world, device="cuda", validate=True)
    assert all(torch.isfinite(v).all() for v in weights(student.model_folder).values())
    begin = str(world.model(world.host))
    trained = train_from_merged(begin, world.host.dataset, device="cuda", folds=[0], epochs=1, iterations=2)
    assert all(torch.isfinite(v).all() for v in weights(trained.model_folder).values())
    merged = merge_guided(MergeRequest([begin, trained.model_folder], world.host.dataset, "2d", 0, "nnUNetMergedOnGPU",
                                       steps=2), device="cuda")
    assert all(torch.isfinite(v).all() for v in weights(merged.model_folder).values())


def test_rows_of_a_comparison_are_made_on_a_gpu(world, tmp_path):
    from nnunetv2_stitch.baselines.compare import compare
    found = compare(world.host.dataset_id, world.partner.dataset_id, str(tmp_path / "comparison"), device="cuda",
                    rows=["B_alone", "plain_ensemble", "weighted_ensemble", "stitched", "guided", "direct",
                          "distilled"], baseline_epochs=1, baseline_iterations=2, progress=False, **SHORT)
    assert not found.skipped


def stock_prediction(folder: Path, images: Path, out: Path, device: str) -> Path:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    out.mkdir()
    predictor = nnUNetPredictor(device=torch.device(device), perform_everything_on_device=device == "cuda",
                                allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), (0, 1))
    predictor.predict_from_files_sequential(str(images), str(out))
    return out


def test_answers_on_a_gpu_are_those_of_stock_nnunet_there(stitched2d, nnunet_env, tmp_path):
    """Half precision rounds otherwise in every algorithm of cuDNN, so stock's own distance to its answer in single
    precision is what ours is held to."""
    world = nnunet_env(stitched2d.world)
    images = world.test_images(world.partner)
    single, half = (stock_prediction(stitched2d.folder, images, tmp_path / d, d) for d in ("cpu", "cuda"))
    ours = StitchedPredictor(device=torch.device("cuda"), allow_tqdm=False)
    ours.initialize_from_trained_model_folder(str(stitched2d.folder), (0, 1))
    ours.predict_from_files_sequential(str(images), str(tmp_path / "ours"))
    tolerance = max(differing(single, half), 1e-4)
    found = differing(tmp_path / "ours", half)
    print(f"voxels that differ: ours from stock's {found:.2e}, stock's from itself on a CPU {tolerance:.2e}")
    assert found <= tolerance
    assert any(v.any() for v in read_segmentations(tmp_path / "ours").values())
