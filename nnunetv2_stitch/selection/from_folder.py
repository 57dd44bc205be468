"""The supernet of a stitched model from its own folder alone, where neither parent's model folder is at hand."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fitting.session import STITCHES_FILE
from nnunetv2_stitch.parties.checkpoint import load_checkpoint, load_weights
from nnunetv2_stitch.parties.reading import ModelFolder
from nnunetv2_stitch.stitching.network import SETTING_KEY, StitchedEnsemble, decode_setting
from nnunetv2_stitch.stitching.plans import supernet_from_plans


def supernet_of_folder(model: ModelFolder, fold: int | str) -> StitchedEnsemble:
    """All parents from a fold's deployed checkpoint, all stitches from `stitches_all.safetensors` beside it. Unlike
    `deploy.load_supernet` it needs nothing but the folder, which may come from another party.

    Raises:
        StitchError: a file is missing, damaged or of another network, or the checkpoint was pruned to fewer parents.
    """
    stitches_path = stitches_file(model.path, fold)
    checkpoint_path = model.checkpoint_path(fold)
    weights = load_checkpoint(checkpoint_path)["network_weights"]
    if SETTING_KEY not in weights:
        raise StitchError(f"{checkpoint_path} holds no stitched ensemble; ask the host for the folder that "
                          f"nnUNetv2_train_stitch made")
    network = supernet_from_plans(model.configuration_manager.configuration, model.num_input_channels,
                                  model.num_outputs)
    parents = {party: _below(weights, party) for party in network.parties}
    if any(name not in own for party, own in parents.items() for name in getattr(network, party).state_dict()):
        output = decode_setting(weights[SETTING_KEY]).output
        raise StitchError(f"{checkpoint_path} was pruned to what output '{output}' needs, so positions cannot be "
                          f"tried; ask the host to deploy all parents (nnUNetv2_train_stitch --select -output "
                          f"ensemble)")
    for party, own in parents.items():
        load_weights(getattr(network, party), own, checkpoint_path)
    load_weights(network.switches, _below(_read_stitches(stitches_path), "switches"), stitches_path)
    return network


def stitches_file(model_folder: str, fold: int | str) -> str:
    """Path of a fold's stitches; their sha256 tells one stitched model from another.

    Raises:
        StitchError: not there.
    """
    path = os.path.join(model_folder, f"fold_{fold}", STITCHES_FILE)
    if not os.path.isfile(path):
        raise StitchError(f"{path} is missing: it holds the stitches of all positions, and nnU-Net's zip export leaves "
                          f"it out; ask for the whole model folder, or choose folds with -f")
    return path


def _read_stitches(path: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file
    try:
        return load_file(path)
    except Exception as error:  # SafetensorError, and what names and types unknown to torch lead to
        raise StitchError(f"{path} is damaged ({error}); copy it again from its source") from error


def _below(weights: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k[len(prefix) + 1:]: v for k, v in weights.items() if k.startswith(f"{prefix}.")}
