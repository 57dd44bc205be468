"""Each party on its own, with stock nnU-Net: plan, preprocess, train."""

from __future__ import annotations

import os
from collections.abc import Callable

from nnunetv2_stitch.demo.settings import CONFIGURATION, FOLD, PLANS, DemoSettings
from nnunetv2_stitch.environment import environment_set
from nnunetv2_stitch.fileio import read_json, write_json


def plan_and_preprocess(dataset: str, settings: DemoSettings, splits: list[dict[str, list[str]]],
                        adapt: Callable[[dict], None] = lambda plans: None) -> None:
    """nnU-Net's fingerprint, plans and preprocessing of a raw dataset; the network in the plans is made small, and
    `adapt` may change the plans further."""
    from nnunetv2.configuration import default_num_processes
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprint_dataset,
        plan_experiment_dataset,
        preprocess_dataset,
    )
    from nnunetv2.paths import nnUNet_preprocessed

    folder, dataset_id = os.path.join(str(nnUNet_preprocessed), dataset), int(dataset[7:10])
    extract_fingerprint_dataset(dataset_id, num_processes=default_num_processes, verbose=False)
    # The planner hands the number of augmentation workers to torch as a number of threads, which must not be 0.
    with environment_set({"nnUNet_n_proc_DA": "1"}):
        plan_experiment_dataset(dataset_id)
    plans_file = os.path.join(folder, f"{PLANS}.json")
    plans = shrunk(read_json(plans_file), settings)
    adapt(plans)
    write_json(plans_file, plans)
    write_json(os.path.join(folder, "splits_final.json"), splits)
    preprocess_dataset(dataset_id, configurations=[CONFIGURATION], num_processes=[default_num_processes])


def shrunk(plans: dict, settings: DemoSettings) -> dict:
    """nnU-Net's plans with a small U-Net and the demo's batch size; spacing, patch size, normalisation and everything
    else stay as planned."""
    stages = len(settings.features)
    configuration = plans["configurations"][CONFIGURATION]
    configuration["batch_size"] = settings.batch_size
    configuration["architecture"]["arch_kwargs"].update(
        n_stages=stages, features_per_stage=list(settings.features), kernel_sizes=[[3, 3]] * stages,
        strides=[[1, 1]] + [[2, 2]] * (stages - 1), n_conv_per_stage=[2] * stages,
        n_conv_per_stage_decoder=[2] * (stages - 1),
    )
    return plans


def train_parent(dataset: str, settings: DemoSettings, device, seed: int, fold: int = FOLD) -> None:
    """Stock training and validation of one fold; goes on where an earlier call was interrupted.

    Args:
        dataset: by name, planned and preprocessed.
        seed: of the training.
    """
    from nnunetv2_stitch.training.stock import train_network, validate_network
    network = (dataset, CONFIGURATION, fold, settings.trainer, PLANS, device)
    train_network(*network, seed=seed)
    validate_network(*network)
