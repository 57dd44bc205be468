"""Our verdict on checkpoints beside that of picklescan, which reads pickles without running them."""

import builtins
import importlib
import os
import runpy
import shutil
import socket
import subprocess
import sys
import webbrowser

import pytest
import torch

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.parties.checkpoint import load_checkpoint

picklescan = pytest.importorskip("picklescan.scanner")

CALLS = [(os.system, "true"), (os.popen, "true"), (subprocess.Popen, ["true"]), (subprocess.check_output, ["true"]),
         (builtins.eval, "1"), (builtins.exec, "1"), (builtins.__import__, "os"), (builtins.getattr, "x", "upper"),
         (importlib.import_module, "os"), (runpy.run_path, "/nowhere"), (shutil.rmtree, "/nowhere"),
         (socket.create_connection, ("localhost", 1)), (webbrowser.open, "http://localhost"), (sys.exit, 3),
         (torch.load, "/nowhere")]


class Runs:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.fixture
def checkpoint(tmp_path):
    def make(call):
        path = tmp_path / "checkpoint_final.pth"
        torch.save({"network_weights": {"a": torch.zeros(2)}, "logging": Runs(*call)}, path)
        return str(path)
    return make


@pytest.mark.parametrize("call", CALLS, ids=lambda c: f"{c[0].__module__}.{c[0].__name__}")
def test_every_call_is_refused(call, checkpoint):
    with pytest.raises(StitchError, match="could run code"):
        load_checkpoint(checkpoint(call))


def test_the_scanner_agrees_on_most(checkpoint):
    """It goes by a list of known dangers, we by a list of what is needed: what it lets through, we need not."""
    flagged = [picklescan.scan_file_path(checkpoint(call)).infected_files for call in CALLS]
    assert sum(map(bool, flagged)) >= 10


def test_stock_checkpoints_pass_both(world2d):
    for party in (world2d.host, world2d.partner):
        path = world2d.model(party) / "fold_0" / "checkpoint_final.pth"
        assert load_checkpoint(str(path))["network_weights"]
        assert picklescan.scan_file_path(str(path)).infected_files == 0
