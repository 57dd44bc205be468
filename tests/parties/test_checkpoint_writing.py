"""Every nnU-Net checkpoint that this package writes comes from one module, is whole, and loads without our classes."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

import nnunetv2_stitch
from nnunetv2_stitch.parties.checkpoint_writing import (
    checkpoint_bytes,
    deployed,
    is_deployed,
    stock,
    untrained,
    write_checkpoint,
)

#: a party's own state of training between rounds: no nnU-Net checkpoint, and never handed on
OWN = {"federation/local.py"}


def test_one_module_writes_checkpoints():
    root = Path(nnunetv2_stitch.__file__).parent
    trees = {str(path.relative_to(root)): ast.parse(path.read_text()) for path in root.rglob("*.py")}
    calls = {name for name, tree in trees.items() for node in ast.walk(tree)
             if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.save"}
    assert calls - OWN == {"parties/checkpoint_writing.py"}


@pytest.fixture
def trained() -> dict:
    """As nnU-Net's trainer leaves it: with numbers of numpy in its logging."""
    return {"network_weights": {"w": torch.ones(2)}, "optimizer_state": {"state": {0: torch.ones(2)}},
            "grad_scaler_state": {"scale": 2.0}, "logging": {"dice": [np.float64(0.5)], "epoch": (np.int64(1),)},
            "_best_ema": np.float32(0.5), "current_epoch": 3, "init_args": {"fold": 0, "axes": np.arange(2)},
            "trainer_name": "nnUNetTrainerMine", "inference_allowed_mirroring_axes": (0, 1)}


def test_what_is_handed_on_is_of_the_stock_trainer_and_of_plain_values(trained, tmp_path):
    write_checkpoint(str(tmp_path / "new" / "c.pth"), deployed(trained, current_epoch=4))
    found = torch.load(tmp_path / "new" / "c.pth", weights_only=True)  # no allowed global
    assert is_deployed(found) and not is_deployed(trained) and not is_deployed(stock(trained))
    assert (found["trainer_name"], found["stitch_trainer_name"]) == ("nnUNetTrainer", "nnUNetTrainerMine")
    assert found["logging"] == {"dice": [0.5], "epoch": (1,)} and found["init_args"]["axes"] == [0, 1]
    assert (found["optimizer_state"], found["grad_scaler_state"], found["current_epoch"]) == ({}, None, 4)
    assert trained["optimizer_state"] and deployed(found)["stitch_trainer_name"] == "nnUNetTrainerMine"  # a second time
    assert set(stock(trained)) == set(untrained({}, "2d", 0, None)) == set(trained)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(trained, tmp_path):
    path = tmp_path / "c.pth"
    write_checkpoint(str(path), deployed(trained))
    before = path.read_bytes()
    with pytest.raises((AttributeError, TypeError, RuntimeError)):
        write_checkpoint(str(path), {"network_weights": (x for x in ())})  # cannot be pickled
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["c.pth"]
    assert checkpoint_bytes({"a": 1}) == checkpoint_bytes({"a": 1})
