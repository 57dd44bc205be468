"""Merge or stitch, asked of model folders before anything is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from nnunetv2_stitch.errors import NotMergeableError, StitchError
from nnunetv2_stitch.merging.check import STITCH, MergeCheck, check_merge
from nnunetv2_stitch.merging.members import make_atlas, read_members
from nnunetv2_stitch.merging.objective import CentreObjective
from nnunetv2_stitch.parties.model_folder import ModelFolder
from nnunetv2_stitch.randomness import seed_everything
from nnunetv2_stitch.training.centre import opened
from nnunetv2_stitch.training.site import find_site

SEED = 12345  # of the few batches that are looked at


def check_models(models: Sequence[ModelFolder], dataset: int | str, configuration: str, fold: int | str,
                 device: torch.device, plans_name: str | None = None) -> MergeCheck:
    """Whether models can be merged, or must be stitched, in one sentence; writes nothing.

    The loss on the lines between them is measured on a few batches of the centre's training cases. Where those are not
    here the weights alone decide, and `note` says why.

    Args:
        dataset, configuration, fold: of the centre's preprocessed data.
        plans_name: plans those were preprocessed with; None for the first model's.

    Raises:
        StitchError: a checkpoint that is missing or refused.
    """
    try:
        members = read_members(models, fold)
        atlas = make_atlas(members)
    except NotMergeableError as error:
        return MergeCheck(STITCH, f"Stitch, do not merge: {str(error).partition('; stitch them')[0]}.")
    try:
        site = find_site(dataset, configuration, fold, members, "check", plans_name)
        seed_everything(SEED)
        with opened(site, device) as centre:
            return check_merge(atlas, CentreObjective(centre, atlas).loss_of_weights)
    except StitchError as error:
        return replace(check_merge(atlas), note=str(error))
