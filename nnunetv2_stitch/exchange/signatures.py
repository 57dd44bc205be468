"""The signature that travels with a fold's weights: measured on the preprocessed training images, or passed on."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from nnunetv2.paths import nnUNet_preprocessed

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.exchange.trainer_check import network_as_trained
from nnunetv2_stitch.gating.features import feature_count, probe
from nnunetv2_stitch.gating.measuring import signature_of
from nnunetv2_stitch.gating.signature import Signature, read_signature
from nnunetv2_stitch.graph.tracing import trace
from nnunetv2_stitch.parties.checkpoint import load_parent, load_weights, network_weights
from nnunetv2_stitch.parties.preprocessed import SPLITS
from nnunetv2_stitch.parties.reading import ModelFolder


def signature_of_fold(model: ModelFolder, fold: int | str, checkpoint_path: str,
                      say: Callable[[str], None]) -> Signature | None:
    """Of the model's own images under the network of one fold; of a model that was received the one that came with it.
    None where there is neither, and then `say` is told why.

    Raises:
        StitchError: a checkpoint that does not fit the plans, or a signature that is none.
    """
    checkpoint = load_parent(checkpoint_path)
    network = network_as_trained(model, checkpoint.get("trainer_name"))
    load_weights(network, network_weights(checkpoint), checkpoint_path)
    missing = _missing(model, fold)
    if missing is not None:
        known = read_signature(os.path.dirname(checkpoint_path), feature_count(network, model.num_input_channels))
        if known is None:
            say(f"fold {fold}: no signature, because {missing}")
        return known
    features, _ = probe(trace(network), model.num_input_channels)
    try:
        return signature_of(features, _folder(model), model.configuration_manager, fold, torch.device("cpu"),
                            checkpoint.get("inference_allowed_mirroring_axes"))
    except StitchError as error:
        say(f"fold {fold}: no signature, because {error}")
        return None


def _folder(model: ModelFolder) -> str:
    return os.path.join(str(nnUNet_preprocessed), model.dataset_name)


def _missing(model: ModelFolder, fold: int | str) -> str | None:
    """What of the preprocessed images is not here, in words."""
    if not nnUNet_preprocessed.is_set():
        return "environment variable nnUNet_preprocessed is not set"
    needed = [os.path.join(_folder(model), model.configuration_manager.data_identifier),
              *([] if fold == "all" else [os.path.join(_folder(model), SPLITS)])]
    return next((f"{path} does not exist" for path in needed if not os.path.exists(path)), None)
