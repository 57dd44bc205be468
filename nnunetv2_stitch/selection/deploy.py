"""From a trained fold to a deployed one: the chosen setting, pruned, in an ordinary nnU-Net checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
import torch

from nnunetv2_stitch.fileio import atomically, read_json, write_json
from nnunetv2_stitch.fitting.session import STITCH_TRAINER_KEY
from nnunetv2_stitch.parties.checkpoint import load_checkpoint
from nnunetv2_stitch.stitching.network import SETTING_KEY, StitchedEnsemble, encode_setting
from nnunetv2_stitch.stitching.setting import Setting

GATE = "gate."  # what the statistics of a gate begin with in the weights


def deploy_fold(network: StitchedEnsemble, fold_folder: str, setting: Setting) -> None:
    """Rewrite a fold's `checkpoint_final.pth` (and `checkpoint_best.pth`) for `setting`.

    The final checkpoint holds the weights this setting needs and no more; the best one, of an earlier epoch, keeps
    all its stitches. Both name nnUNetTrainer as their trainer, because the network is described by the plans alone
    and stock prediction then needs nothing of ours but the installed package.

    Raises:
        StitchError: the network is not from plans.
    """
    network.require_plans()
    final, best = (os.path.join(fold_folder, f"checkpoint_{name}.pth") for name in ("final", "best"))
    weights = network.deployed(setting).state_dict()
    _rewrite(final, {"network_weights": weights, "optimizer_state": {}, "grad_scaler_state": None})
    if os.path.isfile(best):
        kept = {k: v for k, v in load_checkpoint(best)["network_weights"].items() if not k.startswith(GATE)}
        gate = {k: v for k, v in weights.items() if k.startswith(GATE)}
        _rewrite(best, {"network_weights": {**kept, **gate, SETTING_KEY: encode_setting(setting)},
                        "optimizer_state": {}, "grad_scaler_state": None})


def _rewrite(path: str, changes: dict) -> None:
    checkpoint = load_checkpoint(path)
    checkpoint.setdefault(STITCH_TRAINER_KEY, checkpoint["trainer_name"])
    checkpoint.update(changes, trainer_name="nnUNetTrainer")
    checkpoint = {k: v if k == "network_weights" else plain(v) for k, v in checkpoint.items()}
    atomically(path, lambda temporary: torch.save(checkpoint, temporary))


def plain(value):
    """Numpy values as python ones, so that the file loads with `weights_only=True` and no allowed globals."""
    if isinstance(value, Mapping):
        return {plain(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(v) for v in value)
    if isinstance(value, np.generic):
        return value.item()
    return value.tolist() if isinstance(value, np.ndarray) else value


def write_setting(plans_files: list[str], configuration: str, setting: Setting, gate: dict | None = None) -> None:
    """Put the chosen setting, and the gate if there is one, into plans files, so that the network is built as it is
    deployed. The first file names all folds; the others, written by the training of one fold, may lack some."""
    named = None
    for path in plans_files:
        plans = read_json(path)
        stitched = plans["configurations"][configuration]
        named = named or stitched["stitching"]["parents"]
        for record, complete in zip(stitched["stitching"]["parents"], named):
            record["folds"] = {**complete["folds"], **record["folds"]}
        arguments = stitched["architecture"]["arch_kwargs"]
        arguments["setting"] = setting.to_json()
        arguments.pop("gate", None)
        if gate is not None:
            arguments["gate"] = gate
        stitched["stitching"]["training"]["setting"] = setting.to_json()
        write_json(path, plans)
