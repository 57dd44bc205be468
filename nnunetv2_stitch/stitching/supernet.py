"""The trained supernet of a fold, all parents and all stitches: from the parents' own folders, or where they are not
at hand from the stitched model's folder alone."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.parties.checkpoint import load_checkpoint, load_weights
from nnunetv2_stitch.parties.model_folder import ModelFolder
from nnunetv2_stitch.stitching.network import SETTING_KEY, StitchedEnsemble
from nnunetv2_stitch.stitching.plans import load_parents, supernet_from_plans
from nnunetv2_stitch.stitching.setting import decode_setting

STITCHES_FILE = "stitches_all.safetensors"  # of a fold: all its stitches, beside the checkpoint of those in use


def load_supernet(plans: dict, configuration: str, dataset_json: dict, fold: int | str, model_folder: str,
                  results: str) -> StitchedEnsemble:
    """The trained supernet of one fold: parents from their own folders, stitches from `stitches_all.safetensors`.

    Args:
        plans, dataset_json: of the stitched model.
        model_folder: that holds `fold_<fold>` with the stitches.
        results: nnU-Net's folder, in which the parents are looked for.

    Raises:
        StitchError: parents or stitches missing or changed.
    """
    from safetensors.torch import load_file
    manager = PlansManager(plans)
    configuration_manager = manager.get_configuration(configuration)
    network = supernet_from_plans(configuration_manager.configuration,
                                  determine_num_input_channels(manager, configuration_manager, dataset_json),
                                  manager.get_label_manager(dataset_json).num_segmentation_heads)
    load_parents(network, configuration_manager.configuration, fold, results)
    path = os.path.join(model_folder, f"fold_{fold}", STITCHES_FILE)
    if not os.path.isfile(path):
        raise StitchError(f"{path} is missing; train fold {fold} to its end first (--c goes on)")
    network.load_state_dict({**network.state_dict(), **load_file(path)})
    return network


def supernet_of_folder(model: ModelFolder, fold: int | str) -> StitchedEnsemble:
    """All parents from a fold's deployed checkpoint, all stitches from `stitches_all.safetensors` beside it. Unlike
    `load_supernet` it needs nothing but the folder, which may come from another party.

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
