"""--trust lifts for one run what otherwise nothing lifts."""

import os

import pytest
import torch
from networks import spec

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.parties.allowed_classes import require_allowed_classes
from nnunetv2_stitch.parties.checkpoint import load_checkpoint
from nnunetv2_stitch.parties.trust import VARIABLE, is_trusting, trusting


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def harmful(tmp_path):
    torch.save({"network_weights": {"a": torch.zeros(1)}, "logging": Touch(tmp_path / "ran")}, tmp_path / "bad.pth")
    return tmp_path / "bad.pth"


def test_refused_without(harmful, tmp_path):
    with trusting(False), pytest.raises(StitchError, match="could run code"):
        load_checkpoint(str(harmful))
    assert not (tmp_path / "ran").exists()


def test_read_with(harmful, tmp_path):
    with trusting(True):
        assert list(load_checkpoint(str(harmful))["network_weights"]) == ["a"]
    assert (tmp_path / "ran").exists()  # the price, as the option says
    assert not is_trusting() and VARIABLE not in os.environ
    with pytest.raises(StitchError):
        load_checkpoint(str(harmful))


def test_any_network_class_with():
    named = {**spec(), "network_class_name": "torch.nn.Linear"}
    with pytest.raises(StitchError):
        require_allowed_classes(named)
    with trusting(True):
        require_allowed_classes(named)
