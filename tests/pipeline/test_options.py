"""Rules, outputs, fits, choices of positions, seeds."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from safetensors.torch import load_file
from stitched_model import SHORT, stitch

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.inference.predictor import StitchedPredictor
from nnunetv2_stitch.stitching.network import SETTING_KEY
from nnunetv2_stitch.stitching.setting import decode_setting


@pytest.fixture
def world(world2d, copy_world, nnunet_env, thread_pools):
    return nnunet_env(copy_world(world2d))


@pytest.fixture
def stitched_world(stitched2d, copy_world, nnunet_env, thread_pools):
    return nnunet_env(copy_world(stitched2d.world))



def setting_of(folder, fold):
    path = f"{folder}/fold_{fold}/checkpoint_final.pth"
    weights = torch.load(path, weights_only=True)["network_weights"]
    return decode_setting(weights[SETTING_KEY]), weights


def logits_of(predictor_class, folder, folds, image):
    """What a predictor with several folds answers, on CPU and without mirroring."""
    predictor = predictor_class(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(folder, folds)
    return predictor.predict_logits_from_preprocessed_data(image).float()


@pytest.mark.slow
def test_rule_1_gives_each_fold_its_own_position_in_any_order_of_folds(stitched_world):
    result = stitch(stitched_world, rule="1", continue_training=True)
    folder = result.model_folder
    assert len(set(result.positions.values())) == 2
    for row in result.table:
        assert row["chosen"] == row["rule 1"]
    for fold, (position,) in result.positions.items():
        setting, weights = setting_of(folder, fold)
        assert list(setting.switches) == [position]
        assert {k.split(".")[1] for k in weights if k.startswith("switches.")} == {str(position)}
    image = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    alone = [logits_of(StitchedPredictor, folder, (f,), image) for f in (0, 1)]
    assert (alone[0] - alone[1]).abs().max() > 0.1
    for predictor in (nnUNetPredictor, StitchedPredictor):
        for folds in ((0, 1), (1, 0)):
            together = logits_of(predictor, folder, folds, image)
            torch.testing.assert_close(together, (alone[0] + alone[1]) / 2, atol=2e-2, rtol=1e-2)
        for fold in (0, 1):
            torch.testing.assert_close(logits_of(predictor, folder, (fold,), image), alone[fold], atol=0, rtol=0)


@pytest.mark.slow
def test_rule_loo_judges_a_fold_by_the_others(stitched_world):
    result = stitch(stitched_world, rule="loo", continue_training=True)
    best = {}
    for fold in (0, 1):
        with open(f"{result.model_folder}/fold_{fold}/sweep.json") as f:
            sweep = json.load(f)
        best[fold] = sweep["positions"][int(np.argmax(np.round(sweep["ensemble"], 6)))]
    assert result.positions == {0: (best[1],), 1: (best[0],)}


@pytest.mark.slow
@pytest.mark.parametrize(("wanted", "position"), [(7, 7), (0.65, None)])
def test_rule_3_takes_a_position_or_a_progress(stitched_world, wanted, position):
    result = stitch(stitched_world, rule="3", position=wanted, continue_training=True)
    if position is None:
        from nnunetv2_stitch.pipeline import Request, prepare
        host, partner = stitched_world.host.dataset_id, stitched_world.partner.dataset_id
        progress = np.array(prepare(Request(host, partner), continue_training=True).layout.progress())
        position = int(np.abs(progress - wanted).argmin())
        assert abs(progress[position] - wanted) < 0.05 and 0 < position < len(progress) - 1
    assert result.positions == {0: (position,), 1: (position,)}
    for fold, row in enumerate(result.table):
        assert list(setting_of(result.model_folder, fold)[0].switches) == [position]
        assert row["rule 3"] == row["chosen"]
    plans = json.loads((stitched_world.preprocessed / stitched_world.host.dataset / "nnUNetStitchPlans.json")
                       .read_text())
    arguments = plans["configurations"]["2d"]["architecture"]["arch_kwargs"]
    assert arguments["setting"]["switches"] == {str(position): "average"}


@pytest.mark.slow
def test_output_host_is_pruned_and_cannot_answer_as_the_partner(stitched_world, stitched2d):
    result = stitch(stitched_world, output="host", rule="3", position=20, continue_training=True)
    setting, weights = setting_of(result.model_folder, 0)
    whole = setting_of(stitched2d.result.model_folder, 0)[1]
    assert setting.output == "host" and len(weights) < len(whole)
    assert not any(k.startswith("partner.decoder") or k.startswith("switches.20.partner") for k in weights)
    with open(f"{result.model_folder}/fold_0/sweep.json") as f:
        sweep = json.load(f)
    assert result.table[0]["chosen"] == sweep["host_head"][20]
    predictor = StitchedPredictor(device=torch.device("cpu"))
    with pytest.raises(StitchError, match="cannot answer as partner.*-output ensemble"):
        predictor.initialize_from_trained_model_folder(result.model_folder, None, mode="partner")
    predictor.initialize_from_trained_model_folder(result.model_folder, None, mode="host")


@pytest.mark.slow
def test_direct_fit_under_another_name_of_plans_and_chosen_positions(world):
    """What lies beside it stays: -o_p and the trainer's name keep models apart."""
    result = stitch(world, fit="direct", plans_name="MyStitchPlans", configuration="2d", **SHORT)
    assert result.model_folder.endswith("nnUNetTrainerStitchDirect__MyStitchPlans__2d")
    assert (world.preprocessed / world.host.dataset / "MyStitchPlans.json").is_file()
    assert result.position in SHORT["positions"]
    stitches = load_file(f"{result.model_folder}/fold_0/stitches_all.safetensors")
    assert sorted({int(k.split(".")[1]) for k in stitches}) == SHORT["positions"]
    with open(f"{result.model_folder}/fold_0/sweep.json") as f:
        sweep = json.load(f)
    assert sweep["positions"] == SHORT["positions"] and sweep["cases"] == 5
    assert all(0 < r <= 1 for pair in sweep["r2"] for r in pair)
    with open(f"{result.model_folder}/fold_0/direct_matching.json") as f:
        assert sorted(map(int, json.load(f))) == SHORT["positions"]


@pytest.mark.slow
def test_positions_blocks_takes_one_layer_per_block(world, stitched2d):
    result = stitch(world, **{**SHORT, "positions": "blocks"}, fit="direct")
    with open(f"{result.model_folder}/fold_0/sweep.json") as f:
        blocks = json.load(f)["names"]
    with open(stitched2d.folder / "fold_0" / "sweep.json") as f:
        every = json.load(f)["names"]
    assert 7 <= len(blocks) < len(every) and set(blocks) <= set(every)
    assert len({name.rpartition(".")[0] for name in blocks}) == len(blocks)


@pytest.mark.slow
def test_fit_task_trains_by_the_segmentation_loss(world):
    result = stitch(world, fit="task", **{**SHORT, "iterations": 4})
    assert result.trainer == "nnUNetTrainerStitchTask"
    trained = load_file(f"{result.model_folder}/fold_0/stitches_all.safetensors")
    checkpoint = torch.load(f"{result.model_folder}/fold_0/checkpoint_final.pth", weights_only=True)
    losses = checkpoint["logging"]["train_losses"]
    direct = load_file(f"{stitch(world, fit='direct', **SHORT).model_folder}/fold_0/stitches_all.safetensors")
    assert len(losses) == 1 and np.isfinite(losses).all()
    assert trained.keys() == direct.keys() and any((trained[k] - direct[k]).abs().max() > 1e-3 for k in trained)


@pytest.mark.slow
def test_stitches_take_turns_and_pieces_are_recomputed(world):
    options = {"positions_per_pass": 2, "checkpoint_segments": "auto", "half_targets": True}
    result = stitch(world, **{**SHORT, "iterations": 4}, **options)
    plans = json.loads((world.preprocessed / world.host.dataset / "nnUNetStitchPlans.json").read_text())
    training = plans["configurations"]["2d"]["stitching"]["training"]
    assert {k: training[k] for k in options} == options
    logs = [p.read_text() for p in Path(result.model_folder, "fold_0").glob("training_log_*.txt")]
    assert any("pieces are recomputed" in log for log in logs)
    trained = load_file(f"{result.model_folder}/fold_0/stitches_all.safetensors")
    direct = load_file(f"{stitch(world, fit='direct', **{**SHORT, 'iterations': 4}).model_folder}/fold_0/"
                       f"stitches_all.safetensors")
    assert all((trained[k] - direct[k]).abs().max() > 1e-4 for k in trained)
    with pytest.raises(StitchError, match="leave it out with -fit direct"):
        stitch(world, fit="direct", positions_per_pass=2, plans_name="Other")


@pytest.mark.slow
def test_the_same_seed_gives_the_same_stitches_and_another_seed_others(world):
    """On the CPU with nnUNet_n_proc_DA=0, which tests/world.py sets: nnU-Net's augmentation workers race."""
    def stitches(name, seed):
        result = stitch(world, plans_name=name, seed=seed, **SHORT)
        plans = json.loads((world.preprocessed / world.host.dataset / f"{name}.json").read_text())
        assert plans["configurations"]["2d"]["stitching"]["training"]["seed"] == seed
        return load_file(f"{result.model_folder}/fold_0/stitches_all.safetensors")

    first, same, other = (stitches(f"Plans{i}", seed) for i, seed in enumerate((1, 1, 2)))
    assert all(torch.equal(v, same[k]) for k, v in first.items())
    assert any((v - other[k]).abs().max() > 1e-3 for k, v in first.items())
