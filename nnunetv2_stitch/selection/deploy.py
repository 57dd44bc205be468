"""From a trained fold to a deployed one: the chosen setting, pruned, in an ordinary nnU-Net checkpoint."""

from __future__ import annotations

import os
from dataclasses import replace

from nnunetv2_stitch.fileio import read_json, write_json
from nnunetv2_stitch.parties.checkpoint import load_checkpoint
from nnunetv2_stitch.parties.checkpoint_writing import deployed, write_checkpoint
from nnunetv2_stitch.stitching.network import SETTING_KEY, StitchedEnsemble
from nnunetv2_stitch.stitching.plans import Stitching
from nnunetv2_stitch.stitching.setting import Setting, encode_setting

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
    write_checkpoint(final, deployed(load_checkpoint(final), network_weights=weights))
    if os.path.isfile(best):
        checkpoint = load_checkpoint(best)
        kept = {k: v for k, v in checkpoint["network_weights"].items() if not k.startswith(GATE)}
        gate = {k: v for k, v in weights.items() if k.startswith(GATE)}
        kept = {**kept, **gate, SETTING_KEY: encode_setting(setting)}
        write_checkpoint(best, deployed(checkpoint, network_weights=kept))


def write_setting(plans_files: list[str], configuration: str, setting: Setting, gate: dict | None = None) -> None:
    """Put the chosen setting, and the gate if there is one, into plans files, so that the network is built as it is
    deployed. The first file names all folds; the others, written by the training of one fold, may lack some."""
    complete = None
    for path in plans_files:
        plans = read_json(path)
        configured = plans["configurations"][configuration]
        stitching = Stitching.of(configured)
        complete = complete or stitching
        parents = tuple(replace(own, folds={**whole.folds, **own.folds})
                        for own, whole in zip(stitching.parents, complete.parents))
        training = replace(stitching.training, setting=setting.to_json())
        replace(stitching, training=training, parents=parents).put_into(configured)
        arguments = configured["architecture"]["arch_kwargs"]
        arguments["setting"] = setting.to_json()
        arguments.pop("gate", None)
        if gate is not None:
            arguments["gate"] = gate
        write_json(path, plans)
