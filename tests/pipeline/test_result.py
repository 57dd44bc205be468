"""What nnUNetv2_train_stitch leaves behind."""

import hashlib
import json

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from stitched_model import tree

from nnunetv2_stitch.stitching.description import build_parent
from nnunetv2_stitch.stitching.setting import Setting
from nnunetv2_stitch.stitching.supernet import load_supernet

CHANNELS, CLASSES = 1, 3
FILES = ["plans.json", "dataset.json", "stitch_selection.json", "dice_over_position.png", "matches.png"]
FOLD_FILES = ["checkpoint_final.pth", "checkpoint_best.pth", "progress.png", "validation/summary.json", "sweep.json",
              "stitches_all.safetensors"]


def plans_of(stitched) -> dict:
    return json.loads((stitched.folder / "plans.json").read_text())


def parent_weights(stitched, party, fold) -> dict:
    path = stitched.world.model(party) / f"fold_{fold}" / "checkpoint_final.pth"
    return torch.load(path, weights_only=False)["network_weights"]


def deployed(stitched, fold, name="checkpoint_final.pth") -> dict:
    return torch.load(stitched.folder / f"fold_{fold}" / name, weights_only=True)


def test_every_file_of_an_nnunet_model_is_there(stitched2d):
    missing = [f for f in FILES if not (stitched2d.folder / f).stat().st_size]
    for fold in (0, 1):
        folder = stitched2d.folder / f"fold_{fold}"
        missing += [f for f in FOLD_FILES if not (folder / f).stat().st_size]
        assert list(folder.glob("training_log_*.txt"))
        assert not list(folder.glob("checkpoint_latest.pth")) + list(stitched2d.folder.rglob(".tmp*"))
        cases = {p.name for p in (folder / "validation").glob("*.nii.gz")}
        splits = stitched2d.world.preprocessed / stitched2d.world.host.dataset / "splits_final.json"
        assert cases == {f"{c}.nii.gz" for c in json.loads(splits.read_text())[fold]["val"]}
    assert not missing


def test_parents_are_as_they_were_on_disk_and_in_the_checkpoint(stitched2d):
    world = stitched2d.world
    assert tree(world.model(world.host), world.model(world.partner)) == stitched2d.parents
    for fold in (0, 1):
        for name in ("checkpoint_final.pth", "checkpoint_best.pth"):
            weights = deployed(stitched2d, fold, name)["network_weights"]
            for side, party in (("host", world.host), ("partner", world.partner)):
                own = parent_weights(stitched2d, party, fold)
                stored = {k[len(side) + 1:]: v for k, v in weights.items() if k.startswith(f"{side}.")}
                assert stored and all(torch.equal(v, own[k]) for k, v in stored.items())


def test_deployed_checkpoint_holds_what_its_network_needs_and_no_more(stitched2d):
    configuration = PlansManager(plans_of(stitched2d)).get_configuration("2d")
    network = get_network_from_plans(configuration.network_arch_class_name, configuration.network_arch_init_kwargs,
                                     configuration.network_arch_init_kwargs_req_import, CHANNELS, CLASSES, True, False)
    position = stitched2d.result.position
    for fold in (0, 1):
        weights = deployed(stitched2d, fold)["network_weights"]
        assert set(weights) == set(network.state_dict())
        assert {k.split(".")[1] for k in weights if k.startswith("switches.")} == {str(position)}


def test_checkpoints_load_with_weights_only_and_name_both_trainers(stitched2d):
    for fold in (0, 1):
        for name in ("checkpoint_final.pth", "checkpoint_best.pth"):
            checkpoint = deployed(stitched2d, fold, name)  # weights_only, without any allowed global
            assert (checkpoint["trainer_name"], checkpoint["stitch_trainer_name"]) == (
                "nnUNetTrainer", "nnUNetTrainerStitch")


def test_table_has_both_parties_the_plain_ensemble_and_every_rule(stitched2d):
    assert [row["fold"] for row in stitched2d.result.table] == [0, 1]
    for row in stitched2d.result.table:
        assert list(row) == ["fold", "A", "B", "plain ensemble", "rule 1", "rule 2", "rule loo", "chosen"]
        assert row["chosen"] == row["rule 2"]
        assert row["rule 1"] >= max(row["rule 2"], row["rule loo"])
        assert row["A"] > row["B"] + 0.3  # the parties differ, see tests/world.py


def test_plans_record_seed_parents_and_their_sha256(stitched2d):
    world = stitched2d.world
    stitching = plans_of(stitched2d)["configurations"]["2d"]["stitching"]
    assert stitching["training"]["seed"] == 12345
    assert stitching["training"]["setting"] == Setting.average_at(stitched2d.result.position).to_json()
    for record, party in zip(stitching["parents"], (world.host, world.partner)):
        assert record["dataset"] == party.dataset
        assert not record["folder"].startswith("/")
        for fold in (0, 1):
            path = world.model(party) / f"fold_{fold}" / "checkpoint_final.pth"
            assert record["folds"][str(fold)] == {
                "fold": str(fold), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def test_validation_is_of_the_deployed_setting(stitched2d):
    """nnU-Net validates with mirroring and on the original grid: near the sweep's Dice, but not equal."""
    for row in stitched2d.result.table:
        summary = json.loads((stitched2d.folder / f"fold_{row['fold']}" / "validation/summary.json").read_text())
        assert summary["foreground_mean"]["Dice"] == pytest.approx(row["chosen"], abs=0.05)


class Bare:
    """Dice of a bare network on a fold's validation cases, by nnU-Net's own sliding window."""

    def __init__(self, stitched, fold):
        world = stitched.world
        plans = PlansManager(plans_of(stitched))
        self.configuration = plans.get_configuration("2d")
        self.dataset_json = json.loads((stitched.folder / "dataset.json").read_text())
        self.plans = plans
        folder = world.preprocessed / world.host.dataset
        keys = json.loads((folder / "splits_final.json").read_text())[fold]["val"]
        data_folder = str(folder / self.configuration.data_identifier)
        dataset = infer_dataset_class(data_folder)(data_folder, keys)
        self.cases = [[np.asarray(a[:]) for a in dataset.load_case(k)[:2]] for k in keys]

    def logits(self, network) -> list[torch.Tensor]:
        predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
        predictor.manual_initialization(network, self.plans, self.configuration, None, self.dataset_json, "", None)
        return [predictor.predict_sliding_window_return_logits(torch.from_numpy(d)).float() for d, _ in self.cases]

    def dice(self, logits) -> float:
        values = np.full((len(self.cases), 2), np.nan)
        for row, (_, truth), prediction in zip(values, self.cases, logits):
            for i, label in enumerate((1, 2)):
                a, b = prediction.argmax(0).numpy() == label, truth[0] == label
                row[i] = 2 * (a & b).sum() / (a.sum() + b.sum())
        return float(np.nanmean(values, 0).mean())


@pytest.fixture
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def test_sweep_equals_the_bare_parents_and_a_naive_sweep(stitched2d, nnunet_env, two_threads):
    world = nnunet_env(stitched2d.world)
    plans = plans_of(stitched2d)
    for fold in (0, 1):
        sweep = json.loads((stitched2d.folder / f"fold_{fold}" / "sweep.json").read_text())
        bare = Bare(stitched2d, fold)
        logits = []
        specs = plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["parents"]
        for side, party, spec in zip(("host", "partner"), (world.host, world.partner), specs):
            network = build_parent(spec, CHANNELS, CLASSES)
            network.load_state_dict(parent_weights(stitched2d, party, fold))
            logits.append(bare.logits(network))
            assert sweep["baselines"][side] == pytest.approx(bare.dice(logits[-1]), abs=2e-3)
        mean = [(a.softmax(0) + b.softmax(0)) / 2 for a, b in zip(*logits)]
        assert sweep["baselines"]["ensemble"] == pytest.approx(bare.dice(mean), abs=2e-3)

        supernet = load_supernet(plans, "2d", bare.dataset_json, fold, str(stitched2d.folder), str(world.results))
        spread = np.ptp(sweep["ensemble"]), np.ptp(sweep["host_head"])
        assert min(spread) > 2e-2, "positions must differ by more than the tolerance"
        for position in (sweep["positions"][0], 17, 30, sweep["positions"][-1]):
            index = sweep["positions"].index(position)
            for key, output in (("ensemble", "ensemble"), ("host_head", "host")):
                supernet.apply_setting(Setting.average_at(position, output=output))
                naive = bare.dice(bare.logits(supernet))
                assert sweep[key][index] == pytest.approx(naive, abs=2e-3), (position, key)
