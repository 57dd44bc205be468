"""Kind: a run reads each parent once and hashes it once, from the first check to the deployed model."""

from collections import Counter

import pytest
import torch
from stitched_model import stitch

from nnunetv2_stitch.parties import checkpoint


@pytest.mark.slow
def test_every_parent_is_read_and_hashed_once(world2d, copy_world, nnunet_env, thread_pools, monkeypatch):
    world = nnunet_env(copy_world(world2d))
    loads, hashes = Counter(), Counter()
    load, digest = torch.load, checkpoint._sha256
    monkeypatch.setattr(torch, "load", lambda path, *a, **k: loads.update([str(path)]) or load(path, *a, **k))
    monkeypatch.setattr(checkpoint, "_sha256", lambda path: hashes.update([str(path)]) or digest(path))
    stitch(world, positions=[20], epochs=1, iterations=1)
    parents = {str(world.model(p) / f"fold_{f}" / "checkpoint_final.pth"): 1
               for p in (world.host, world.partner) for f in world.folds}
    for counted in (loads, hashes):
        assert {path: n for path, n in counted.items() if "__nnUNetPlans__" in path} == parents
