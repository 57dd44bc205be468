"""The mean of both parents' weights as one network ("soup"). Parents that share no start are not linearly connected, so
this is expected to fail for them; it is in the comparison to show it."""

from __future__ import annotations

import os
import shutil

from nnunetv2.paths import nnUNet_results

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import write_json
from nnunetv2_stitch.locks import plans_locked
from nnunetv2_stitch.parties.checkpoint import load_parent, network_weights
from nnunetv2_stitch.parties.checkpoint_writing import stock, write_checkpoint
from nnunetv2_stitch.parties.model_folder import BASELINE_KEY, ModelFolder

NAMES = ("plans.json", "dataset.json", "dataset_fingerprint.json")


def average_weights(host: ModelFolder, partner: ModelFolder, folds: dict[int | str, int | str],
                    plans_name: str) -> str:
    """Write an ordinary model folder of the host with the mean of both parents' weights, for each of the host's folds.

    Args:
        folds: the host's folds, with the partner's fold for each.

    Returns:
        The model folder, `nnUNetTrainer__<plans_name>__<configuration>`.

    Raises:
        StitchError: the parents' tensors differ in name or shape.
    """
    folder = os.path.join(str(nnUNet_results), host.dataset_name,
                          f"nnUNetTrainer__{plans_name}__{host.configuration}")
    for fold, partner_fold in folds.items():
        path = host.checkpoint_path(fold)
        checkpoint = load_parent(path)
        mine = network_weights(checkpoint)
        theirs = network_weights(load_parent(partner.checkpoint_path(partner_fold)))
        for name in sorted(mine.keys() | theirs.keys()):
            if name not in mine or name not in theirs or mine[name].shape != theirs[name].shape:
                shapes = " and ".join(str(tuple(w[name].shape)) if name in w else "missing" for w in (mine, theirs))
                raise StitchError(f"weights cannot be averaged: {name} is {shapes} in the two networks")
        mean = {k: (v.float() + theirs[k].float()).div(2).to(v.dtype) for k, v in mine.items()}
        write_checkpoint(os.path.join(folder, f"fold_{fold}", "checkpoint_final.pth"),
                         stock(checkpoint, network_weights=mean))
    for name in NAMES:
        if os.path.isfile(os.path.join(host.path, name)):
            shutil.copyfile(os.path.join(host.path, name), os.path.join(folder, name))
    path = os.path.join(folder, "plans.json")
    with plans_locked(path):
        write_json(path, {**host.plans, "plans_name": plans_name, BASELINE_KEY: True})
    return folder
