"""Every fold is deployed once: by the choice over all folds, or by its training where stock nnU-Net runs that."""

import pytest
import torch
from stitched_model import stitch

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.pipeline import run
from nnunetv2_stitch.stitching.network import SETTING_KEY, StitchedEnsemble
from nnunetv2_stitch.stitching.setting import decode_setting

pytestmark = pytest.mark.slow


class Killed(BaseException):
    pass


def test_a_fold_is_deployed_by_the_choice_alone(world2d, copy_world, nnunet_env, thread_pools, monkeypatch):
    """Its training leaves a checkpoint that goes on; a kill before the choice loses nothing, and is said as it is."""
    world = nnunet_env(copy_world(world2d))
    pruned, deployed = [], StitchedEnsemble.deployed
    monkeypatch.setattr(StitchedEnsemble, "deployed", lambda self, s: pruned.append(s) or deployed(self, s))
    arguments = {"folds": [0], "epochs": 1, "iterations": 2, "positions": [9]}

    def killed(*_):
        raise Killed
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(run, "deploy", killed)
        stitch(world, **arguments)
    fold, = world.results.glob(f"{world.host.dataset}/nnUNetTrainerStitch__*/fold_0")
    assert not pruned
    trained = torch.load(fold / "checkpoint_final.pth", weights_only=False)
    assert trained["trainer_name"] == "nnUNetTrainerStitch" and trained["optimizer_state"]
    with pytest.raises(StitchError, match="fold 0 are trained, but no position is chosen and deployed yet; .* --c"):
        stitch(world, only_validation=True, **arguments)

    said = []
    result = stitch(world, continue_training=True, say=said.append, **arguments)
    assert "fold 0: stitches are trained" in said and len(pruned) == 1
    checkpoint = torch.load(fold / "checkpoint_final.pth", weights_only=True)
    assert checkpoint["trainer_name"] == "nnUNetTrainer" and tuple(pruned[0].switches) == (result.position,)
    assert decode_setting(checkpoint["network_weights"][SETTING_KEY]) == pruned[0]
    assert (fold / "validation" / "summary.json").is_file()
