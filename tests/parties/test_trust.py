"""--trust lifts for one run what otherwise nothing lifts."""

import os
import subprocess
import sys

import pytest
import torch
from networks import spec

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.parties.allowed_classes import require_allowed_classes
from nnunetv2_stitch.parties.checkpoint import load_checkpoint
from nnunetv2_stitch.parties.trust import MEANING, is_trusting, trusting


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


def test_read_with(harmful, tmp_path, capsys):
    before = dict(os.environ)
    with trusting(True), trusting(True):
        assert list(load_checkpoint(str(harmful))["network_weights"]) == ["a"]
        assert dict(os.environ) == before
    assert (tmp_path / "ran").exists()  # the price, as the option says
    assert capsys.readouterr().err == MEANING + "\n", "said aloud, and once"
    assert not is_trusting()
    with pytest.raises(StitchError):
        load_checkpoint(str(harmful))


def test_any_network_class_with():
    named = {**spec(), "network_class_name": "torch.nn.Linear"}
    with pytest.raises(StitchError):
        require_allowed_classes(named)
    with trusting(True):
        require_allowed_classes(named)


@pytest.mark.parametrize("value", ["1", "true"])
def test_nothing_in_the_environment_lifts_safe_loading(harmful, tmp_path, monkeypatch, value):
    """Kind: what makes a run unsafe belongs to that run, and is never inherited unseen."""
    monkeypatch.setenv("nnUNet_stitch_trust", value)
    assert not is_trusting()
    with pytest.raises(StitchError, match="could run code"):
        load_checkpoint(str(harmful))
    with pytest.raises(StitchError, match="is not allowed"):
        require_allowed_classes({**spec(), "network_class_name": "torch.nn.Linear"})
    assert not (tmp_path / "ran").exists()


def test_what_a_trusting_run_starts_does_not_inherit_it():
    asked = "from nnunetv2_stitch.parties.trust import is_trusting; print(is_trusting())"
    with trusting(True):
        said = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout
    assert said == "False\n"


@pytest.mark.slow
@pytest.mark.parametrize("trust", [True, False])
def test_processes_of_the_run_are_told(trust, tmp_path, capfd):
    import several_processes as processes
    from stitched_model import environment, forkserver, python_path

    from nnunetv2_stitch.pipeline.fold_run import _spawn
    forkserver()
    with environment({"PYTHONPATH": python_path()}), trusting(trust):
        _spawn(processes.TellsTrust(str(tmp_path / "told")), torch.device("cpu"), 1, "forkserver")
    assert (tmp_path / "told").read_text() == str(trust)
    assert capfd.readouterr().err.count(MEANING) == trust
