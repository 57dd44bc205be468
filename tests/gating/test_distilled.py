"""A gate is part of the teacher: it answers each patch as in prediction, and is known by whoever goes on."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from close import assert_same
from gating.test_gate import OPTIONS, gated, give
from interrupting import interrupt_at
from networks import build, image, spec

from nnunetv2_stitch.distillation import distill
from nnunetv2_stitch.distillation import session as session_module
from nnunetv2_stitch.distillation.teacher import taught_by, teach
from nnunetv2_stitch.entrypoints.distill_stitched import print_result
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import read_json, write_json
from nnunetv2_stitch.inference.predictor import StitchedPredictor
from nnunetv2_stitch.stitching.setting import Setting


@pytest.mark.parametrize("regions", [False, True])
def test_each_patch_of_a_batch_is_taught_with_its_own_shares(regions):
    """As `inference_mode` answers it alone, of three parties; the gradients that a student needs are not in its way."""
    specs = [spec(), spec(width=4, convs=1), spec("ResidualEncoderUNet")]
    options = replace(OPTIONS, known=(True, True))
    net, _ = gated([build(s, i) for i, s in enumerate(specs)], specs, options, Setting.average_at(9), regions=regions)
    x = image(batch=5)
    rows = torch.tensor([[1, 0, 0], [1 / 3] * 3, [0.6, 0.3, 0.1], [0, 0, 1], [0.2, 0.2, 0.6]])
    found = teach(give(net, rows.tolist()), x)
    for i, row in enumerate(rows):
        with torch.inference_mode():
            wanted = give(net, [row.tolist()])(x[i:i + 1])
        assert_same(found[i:i + 1], wanted)
    assert not found.requires_grad and len({f.sum().item() for f in found}) == 5


@pytest.mark.slow
def test_a_gated_teacher_in_training_and_after_an_interruption(gated2d, tmp_path, nnunet_env, thread_pools,
                                                              monkeypatch, capsys):
    """A's images and B's without labels in one batch: its targets are what the predictor's network answers. The gate
    is in the records, and a student goes on under the same gate alone."""
    world = nnunet_env(replace(gated2d.world, root=Path(shutil.copytree(gated2d.world.root, tmp_path / "world"))))
    folder = world.results / gated2d.folder.relative_to(gated2d.world.results)
    taught = []

    def seen(network, data):
        answer = teach(network, data)
        taught.append((data.clone(), answer))
        return answer

    def student(**arguments):
        arguments = {"device": "cpu", "progress": False, "folds": [0], "epochs": 2, "iterations": 6, "validate": False,
                     "unlabelled": str(world.test_images(world.partner)), **arguments}
        return distill(str(folder), world.host.dataset, **arguments)

    monkeypatch.setattr(session_module, "teach", seen)
    results = world.results / world.host.dataset / "nnUNetTrainerStitchDistilled__nnUNetDistilledPlans__2d"
    with interrupt_at("Epoch 1", results), pytest.raises(KeyboardInterrupt):
        student()
    assert not (results / "fold_0" / "checkpoint_final.pth").exists(), "too late to interrupt anything"
    result = student(continue_training=True)
    assert len(read_json(str(results / "fold_0" / "distillation.json"))["sha256"]) == 3

    predictor = StitchedPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), 0)
    network, shares = predictor.network, []
    for data, answer in taught:
        with torch.no_grad():
            torch.testing.assert_close(answer, network(data), rtol=0, atol=0)
            shares.append(network.gated.shares(data)[:, 0])
    shares = torch.cat(shares)
    assert shares.max() > shares.min() + 0.05, shares
    with torch.no_grad():
        assert not torch.equal(network.joined(data), answer), "nothing was up to the gate"

    plans = read_json(str(folder / "plans.json"))
    gate = plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["gate"]
    record = read_json(str(results / "fold_0" / "distillation.json"))
    assert record["gate"] == gate and record["taught_by"] == result.taught_by == "a stitched ensemble with a gate"
    capsys.readouterr()
    print_result(result)
    assert "\nTaught by a stitched ensemble with a gate\n" in capsys.readouterr().out
    said = []
    student(continue_training=True, say=said.append)
    assert "fold 0: trained before" in said

    (results / "fold_0" / "checkpoint_final.pth").unlink()
    gate["lead"] = gate["lead"] / 2 + 0.1  # in the plans alone: no checkpoint tells it
    write_json(str(folder / "plans.json"), plans)
    with pytest.raises(StitchError, match="sha256 or gate differs"):
        student(continue_training=True)
    from nnunetv2.run.run_training import get_trainer_from_args

    from nnunetv2_stitch.environment import our_trainers_known
    with our_trainers_known(), pytest.raises(StitchError, match="the gate in .*plans.json is not the one"):
        get_trainer_from_args(world.host.dataset, "2d", 0, "nnUNetTrainerStitchDistilled", "nnUNetDistilledPlans",
                              device=torch.device("cpu")).run_training()


def test_what_a_teacher_is_in_words():
    gate = json.loads(json.dumps(OPTIONS.to_json()))
    assert (taught_by({}), taught_by({"gate": gate}, 0.0)) == ("a stitched ensemble", "labels alone")
    assert taught_by({"gate": gate, "adapted": ["partner", "partner2"]}) == (
        "a stitched ensemble with a gate, with the partner adapted to the host's images, with the partner2 adapted to "
        "the host's images")
