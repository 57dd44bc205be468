"""The merged model on disk: a model folder of the stock trainer, with what it was made of."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping

import torch
from nnunetv2.paths import nnUNet_results
from nnunetv2.utilities.file_path_utilities import get_output_folder
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.exchange.card import CARD
from nnunetv2_stitch.figures.merge_coefficients import merge_coefficients
from nnunetv2_stitch.fileio import is_writable, read_json, write_json, write_text
from nnunetv2_stitch.folders import folds_in
from nnunetv2_stitch.locks import plans_locked
from nnunetv2_stitch.merging.merged_card import merged_card
from nnunetv2_stitch.parties.checkpoint_writing import TRAINER, untrained, write_checkpoint
from nnunetv2_stitch.parties.model_folder import FINAL, MERGED_KEY
from nnunetv2_stitch.training.site import Site

RECORD, FIGURE = "merge.json", "merge.png"


def check_target(site: Site) -> str:
    """The model folder to write.

    Raises:
        StitchError: nnUNet_results is not set or not writable, the fold is there already, or another model is.
    """
    if not nnUNet_results.is_set():
        raise StitchError("environment variable nnUNet_results is not set; set it to the folder that holds the models")
    folder = get_output_folder(site.dataset_name, TRAINER, site.plans["plans_name"], site.configuration)
    if os.path.exists(os.path.join(folder, f"fold_{site.fold}")):
        raise StitchError(f"{folder} already holds fold {site.fold}; choose another name with -o_p, or delete it")
    plans_file = os.path.join(folder, "plans.json")
    if os.path.isfile(plans_file):
        if _of_plans(read_json(plans_file)) != _of_plans(site.plans):
            raise StitchError(f"{folder} holds another model; choose another name with -o_p")
    if not is_writable(folder):
        raise StitchError(f"no permission to write into {folder}; change its permissions or nnUNet_results")
    return folder


def _of_plans(plans: dict) -> tuple:
    """What folds of one model have in common."""
    manager = PlansManager(plans)
    return plans["configurations"], manager.transpose_forward, manager.foreground_intensity_properties_per_channel


def write_merged(folder: str, site: Site, state: Mapping[str, torch.Tensor], record: dict,
                 mirroring: tuple[int, ...] | None) -> list[str]:
    """Write the fold under a temporary name and rename it when it is whole.

    Args:
        state: all tensors of the network, as nnU-Net saves them.
        record: contents of merge.json.
        mirroring: axes for nnU-Net's test-time mirroring.

    Returns:
        The files written.
    """
    fold = os.path.join(folder, f"fold_{site.fold}")
    unfinished = os.path.join(folder, f".tmp{os.getpid()}_fold_{site.fold}")
    made = not os.path.isdir(folder)
    try:
        os.makedirs(unfinished)
        write_checkpoint(os.path.join(unfinished, FINAL), untrained(state, site.configuration, site.fold, mirroring))
        write_json(os.path.join(unfinished, RECORD), record)
        merge_coefficients(record, os.path.join(unfinished, FIGURE))
        plans_file = os.path.join(folder, "plans.json")
        with plans_locked(plans_file):
            check_target(site)  # once more: another command may have written meanwhile
            write_json(plans_file, site.plans | {MERGED_KEY: True})
            write_json(os.path.join(folder, "dataset.json"), site.dataset_json)
            others = [read_json(os.path.join(folder, f"fold_{f}", RECORD)) for f in folds_in(folder, RECORD)]
            write_text(os.path.join(folder, CARD), merged_card(site.dataset_json, [*others, record]))
            os.replace(unfinished, fold)
    except BaseException as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        if made and os.path.isdir(folder) and not any(n.startswith(("fold_", ".tmp")) for n in os.listdir(folder)):
            # plans without a fold are no model
            shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, PermissionError):
            raise StitchError(f"no permission to write {fold}; choose a folder that you may write to") from error
        raise
    return [os.path.join(fold, n) for n in (FINAL, RECORD, FIGURE)] + [os.path.join(folder, CARD)]
