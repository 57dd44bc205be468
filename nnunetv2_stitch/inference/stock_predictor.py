"""nnU-Net's predictor for an ordinary model folder, without executing anything from it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunetv2_stitch.exchange.model_check import network_as_trained
from nnunetv2_stitch.inference.images import ImagePredictor
from nnunetv2_stitch.parties.checkpoint import load_parent, load_weights, network_weights
from nnunetv2_stitch.parties.model_folder import FINAL, ModelFolder


def stock_predictor(model: ModelFolder, folds: Sequence[int | str], device: torch.device, tta: bool = True,
                    checkpoint_name: str = FINAL) -> nnUNetPredictor:
    """An initialised predictor for the folds' models together, as nnU-Net ensembles folds, with the network that their
    trainer builds where that is installed here.

    Args:
        folds: that answer together.
        tta: mirror, as nnU-Net does by default.

    Raises:
        StitchError: a network class that may not be built, or a checkpoint missing, broken or of another network.
    """
    network, weights, mirroring = None, [], None
    for fold in folds:
        path = model.checkpoint_path(fold, checkpoint_name)
        checkpoint = load_parent(path)
        network = network or network_as_trained(model, checkpoint.get("trainer_name"))
        load_weights(network, network_weights(checkpoint), path)
        weights.append({k: v.clone() for k, v in network.state_dict().items()})
        mirroring = checkpoint.get("inference_allowed_mirroring_axes")
    predictor = ImagePredictor(device=device, use_mirroring=tta, perform_everything_on_device=device.type == "cuda",
                               allow_tqdm=False)
    predictor.manual_initialization(network, model.plans_manager, model.configuration_manager, weights,
                                    model.dataset_json, model.trainer, mirroring)
    return predictor
