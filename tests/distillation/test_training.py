"""Students trained inside nnU-Net's loop, and what comes out: a model of nnU-Net's own."""

import json
from pathlib import Path

import pytest
import torch
from distill_steps import short, teacher_of
from pages import page_of, pictured
from stitched_model import read_segmentations, stock_alone, tree

from nnunetv2_stitch.distillation import session as session_module
from nnunetv2_stitch.distillation.teacher import load_teacher, read_teacher
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import read_json, write_json
from nnunetv2_stitch.parties.checkpoint import load_checkpoint, network_weights
from nnunetv2_stitch.parties.find import find_models

pytestmark = pytest.mark.slow

def weights(result, name="checkpoint_final.pth") -> dict:
    return torch.load(Path(result.model_folder, "fold_0", name), weights_only=True)["network_weights"]


def same(a: dict, b: dict) -> bool:
    return all((a[k] == b[k]).all() for k in a)


def terms(result) -> list[float]:
    logs = "".join(p.read_text() for p in sorted(Path(result.model_folder, "fold_0").glob("training_log_*.txt")))
    return [float(line.split()[-1]) for line in logs.splitlines() if "teacher_term" in line]


def test_a_student_is_an_ordinary_model_that_learns_from_its_teacher(world, tmp_path):
    before = tree(teacher_of(world), world.model(world.host))
    result = short(world, epochs=2, iterations=8, validate=True)
    assert tree(teacher_of(world), world.model(world.host)) == before
    first, last = terms(result)
    assert 0 < last < first
    folder = Path(result.model_folder)
    for name in ("final", "best"):
        checkpoint = torch.load(folder / "fold_0" / f"checkpoint_{name}.pth", weights_only=True)
        assert checkpoint["trainer_name"] == "nnUNetTrainer" and not checkpoint["optimizer_state"]
        assert "distillation" not in checkpoint["init_args"]["plans"]["configurations"]["2d"]
    assert weights(result).keys() == load_checkpoint(
        str(world.model(world.host) / "fold_0" / "checkpoint_final.pth"))["network_weights"].keys()
    plans = read_json(folder / "plans.json")
    assert str(world.root) not in json.dumps(plans) and "nnunetv2_stitch" not in json.dumps(plans)
    record = read_json(folder / "fold_0" / "distillation.json")
    assert (record["seed"], record["start"], record["weight"], record["num_epochs"]) == (12345, "host", 1.0, 2)
    assert result.validation_dice[0] == read_json(folder / "fold_0/validation/summary.json")["foreground_mean"]["Dice"]
    assert result.validation_dice[0] > 0.5
    page = page_of(folder)
    assert page.text.count("partner of the teacher") == 1 and len(pictured(page)) == 3
    assert "A alone, B alone, teacher, student; maps of disagreement" in pictured(page)[0]
    # It is no parent for the next stitching, unless it is asked for.
    assert folder.name not in {m.identifier for m in find_models(world.host.dataset_id)}
    assert find_models(world.host.dataset_id, plans="nnUNetDistilledPlans")[0].identifier == folder.name

    stock_alone(folder, world.test_images(world.host), tmp_path / "out")
    found = read_segmentations(tmp_path / "out")
    assert len(found) == 3 and all(v.any() for v in found.values())

    # Validation again, from the final checkpoint.
    summary = folder / "fold_0" / "validation" / "summary.json"
    summary.unlink()
    again = short(world, epochs=2, iterations=8, validate=True, continue_training=True)
    assert again.validation_dice == result.validation_dice


def test_same_seed_same_student_and_the_teacher_answers_once_per_batch(world, monkeypatch):
    calls = []

    def counted(network, data):
        calls.append(data.sum().item())
        return original(network, data)

    original = session_module.teach
    monkeypatch.setattr(session_module, "teach", counted)
    one = weights(short(world, iterations=3))
    assert len(calls) == len(set(calls)) == 3
    two = weights(short(world, iterations=3, plans_name="AgainPlans"))
    assert calls[:3] == calls[3:] and same(one, two)
    # With images without labels, which never reach the labels' loss, and from scratch.
    scratch = short(world, plans_name="ScratchPlans", start="scratch", unlabelled=str(world.test_images(world.partner)))
    drawn = weights(scratch)
    assert len(calls) == 8 and not same(one, drawn) and torch.isfinite(next(iter(drawn.values()))).all()
    assert read_json(Path(scratch.model_folder, "fold_0", "distillation.json"))["unlabelled_cases"] == 3


def in_regions(world) -> None:
    """Turn the world's models into region-based ones with an ignore label, with the weights of two outputs."""
    folders = [world.model(world.host), teacher_of(world), world.preprocessed / world.host.dataset]
    for folder in folders:
        dataset = read_json(folder / "dataset.json")
        dataset.update(labels={"background": 0, "both": [1, 2], "b": 2, "ignore": 3}, regions_class_order=[1, 2])
        write_json(str(folder / "dataset.json"), dataset)
    for path in (teacher_of(world) / "plans.json",):
        plans = read_json(path)
        plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["regions"] = True
        write_json(str(path), plans)
    for path in (folders[0] / "fold_0/checkpoint_final.pth", folders[1] / "fold_0/checkpoint_final.pth"):
        checkpoint = load_checkpoint(str(path))
        kept = {k: v[1:] if "seg_layers" in k else v for k, v in network_weights(checkpoint).items()}
        torch.save({**checkpoint, "network_weights": kept}, path)
    from nnunetv2_stitch.parties.checkpoint import sha256
    plans = read_json(teacher_of(world) / "plans.json")
    entry = plans["configurations"]["2d"]["stitching"]["parents"][0]["folds"]["0"]
    entry["sha256"] = sha256(str(folders[0] / "fold_0/checkpoint_final.pth"))
    write_json(str(teacher_of(world) / "plans.json"), plans)
    data = world.preprocessed / world.host.dataset / "nnUNetPlans_2d"
    from batchgenerators.utilities.file_and_folder_operations import load_pickle, write_pickle
    for path in data.glob("*.pkl"):  # as nnU-Net preprocesses data with an ignore label
        properties = load_pickle(str(path))
        places = properties["class_locations"]
        places[(-1, 0, 1, 2)] = [p for v in places.values() for p in v]
        write_pickle(properties, str(path))


def test_regions_and_an_ignore_label(world):
    in_regions(world)
    network, _ = load_teacher(read_teacher(str(teacher_of(world))), 0)
    assert network.regions and network.num_classes == 2
    result = short(world, unlabelled=str(world.test_images(world.partner)), iterations=4, validate=True)
    assert terms(result)[0] > 0
    assert 0 <= result.validation_dice[0] <= 1


def test_models_that_changed_since_the_plans_were_made_are_refused(world):
    from nnunetv2_stitch.distillation import DistillRequest, prepare
    job = prepare(DistillRequest(str(teacher_of(world)), world.host.dataset, folds=[0], epochs=1, iterations=1))
    write_json(job.plans_file, job.plans)
    path = teacher_of(world) / "fold_0" / "checkpoint_final.pth"
    torch.save({**load_checkpoint(str(path)), "more": 1}, path)
    from nnunetv2.run.run_training import get_trainer_from_args

    from nnunetv2_stitch.environment import our_trainers_known
    with our_trainers_known(), pytest.raises(StitchError, match="is not the checkpoint that the plans were made for"):
        get_trainer_from_args(world.host.dataset, "2d", 0, "nnUNetTrainerStitchDistilled", "nnUNetDistilledPlans",
                              device=torch.device("cpu")).run_training()
