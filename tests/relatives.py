"""Three nnU-Nets trained on from one checkpoint of the small world, two at the host and one at the partner."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
import world as worlds
from stitched_model import environment

START_EPOCHS, STEPS = 1, 12


@dataclass(frozen=True)
class Relatives:
    """`world`: a copy of the small one. `members`: model folders. `start`: the checkpoint that all began with."""

    world: worlds.World
    members: tuple[str, ...]
    start: str


def train_relatives(world: worlds.World, root: Path) -> Relatives:
    """Short trainings with nnU-Net's own loop, plans of the host at both."""
    from nnunetv2_stitch.baselines.datasets import borrow_plans
    from nnunetv2_stitch.parties.model_folder import read_model_folder
    from nnunetv2_stitch.training.stock import train_network

    copy = worlds.World(Path(shutil.copytree(world.root, root / "world")), world.dim)
    with environment(copy.env), worlds.thread_pools():
        host, partner = (read_model_folder(str(copy.model(p))) for p in (copy.host, copy.partner))
        folders = []
        for seed, dataset in enumerate((host, host, partner), start=1):
            borrow_plans(host, dataset, f"nnUNetPlansM{seed}")
            network = (dataset.dataset_name, "2d", 0, worlds.TRAINER, f"nnUNetPlansM{seed}")
            train_network(*network, torch.device("cpu"), host.checkpoint_path(0), epochs=START_EPOCHS,
                          iterations=STEPS, seed=seed)
            folders.append(str(copy.results / network[0] / "__".join((network[3], network[4], network[1]))))
    return Relatives(copy, tuple(folders), host.checkpoint_path(0))
