"""A small world of two parties, each with its own images and its own model trained by stock nnU-Net.

`python tests/world.py FOLDER --dim 2` builds it in under a minute; with `--rgb` its images are colour photographs. The
images are blobs of two tissues whose intensities differ between the parties; all cases are independent draws. The
parents differ in width (2d), so that code which mixes up the two channel counts of a match fails.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

TESTS = Path(__file__).resolve().parent
TRAINERS = TESTS / "data" / "trainers"
TRAINER = "nnUNetTrainerTiny"
PLANS = "nnUNetPlans"
LABELS = {"background": 0, "a": 1, "b": 2}
# What every nnU-Net process of the tests wants, whichever world it works on. Some are read when nnU-Net is imported.
QUIET = {
    "nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "1", "nnUNet_compile": "false", "nnUNet_wandb_enabled": "0",
    "MPLBACKEND": "Agg", "TQDM_DISABLE": "1",
    # Threads that spin while they wait take the cores that other processes need.
    "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), "OMP_WAIT_POLICY": "PASSIVE",
}


@dataclass(frozen=True)
class Party:
    """Mean intensity of background, a and b, and the standard deviation of the noise; features per stage; keys of
    channel_names, for colour images."""

    dataset_id: int
    name: str
    intensities: tuple[float, float, float]
    noise: float
    features: tuple[int, ...]
    colours: tuple[str, ...] = ()

    @property
    def dataset(self) -> str:
        return f"Dataset{self.dataset_id}_{self.name}"


# An extreme shift, so that what a model knows of the other party's images is never in doubt: mean Dice on own cases
# 0.92 and 0.94 (2d), on the other's 0.16 and 0.13; in 3d 0.89 and 0.86, and 0.34 and 0.21. For the mild kind, partner
# intensities (0., 2.4, 3.) with noise 0.12 give 0.92 and 0.94 on own and 0.85 and 0.90 on the other's.
PARTIES = {
    2: (Party(801, "HostBlobs", (0., 1., 2.), 0.3, (8, 16, 32, 32)),
        Party(802, "PartnerBlobs", (0., 1., -1.), 0.4, (6, 12, 24, 24))),
    3: (Party(803, "HostCubes", (0., 1., 2.), 0.3, (8, 16, 16)),
        Party(804, "PartnerCubes", (0., 1., -1.), 0.4, (8, 16, 16))),
}
# One png per case that holds three channels, all of one name, which is the only way to the normalisation for colours.
# nnU-Net goes by the order of the keys, whatever they are.
RGB_PARTIES = (Party(805, "HostPhotos", (0., 1., 2.), 0.3, (8, 16, 32, 32), ("0", "1", "2")),
               Party(806, "PartnerPhotos", (0., 1., -1.), 0.4, (6, 12, 24, 24), ("red", "green", "blue")))
COLOURS = (30., 15., -20.)  # of an intensity of 1 in each channel, around a grey of 100
SHAPE = {2: (1, 64, 64), 3: (24, 24, 24)}  # (z, y, x)
# nnU-Net plans only 2d where the third spacing of a one-slice image is huge.
SPACING = {2: (1., 1., 999.), 3: (1., 1., 1.)}  # (x, y, z), mm
CASES = {2: (10, 3), 3: (6, 2)}
FOLDS = {2: (0, 1), 3: (0,)}
BATCH_SIZE = {2: 4, 3: 2}


@dataclass(frozen=True)
class World:
    """Where a built world lies. `host` and `partner` are parties; their datasets are `.dataset` and `.dataset_id`."""

    root: Path
    dim: int
    rgb: bool = False

    @property
    def parties(self) -> tuple[Party, Party]:
        return RGB_PARTIES if self.rgb else PARTIES[self.dim]

    @property
    def host(self) -> Party:
        return self.parties[0]

    @property
    def partner(self) -> Party:
        return self.parties[1]

    @property
    def ending(self) -> str:
        return ".png" if self.rgb else ".nii.gz"

    @property
    def configuration(self) -> str:
        return "2d" if self.dim == 2 else "3d_fullres"

    @property
    def folds(self) -> tuple[int, ...]:
        """The folds that are trained; splits_final.json has two in either world."""
        return FOLDS[3 if self.rgb else self.dim]

    @property
    def raw(self) -> Path:
        return self.root / "raw"

    @property
    def preprocessed(self) -> Path:
        return self.root / "preprocessed"

    @property
    def results(self) -> Path:
        return self.root / "results"

    @property
    def env(self) -> dict[str, str]:
        """Environment variables for nnU-Net, also in another process."""
        return {"nnUNet_raw": str(self.raw), "nnUNet_preprocessed": str(self.preprocessed),
                "nnUNet_results": str(self.results), "nnUNet_extTrainer": str(TRAINERS), **QUIET}

    def model(self, party: Party) -> Path:
        """The party's trained model folder."""
        return self.results / party.dataset / f"{TRAINER}__{PLANS}__{self.configuration}"

    def test_images(self, party: Party) -> Path:
        return self.raw / party.dataset / "imagesTs"

    def test_labels(self, party: Party) -> Path:
        return self.raw / party.dataset / "labelsTs"


@contextmanager
def thread_pools():
    """Pools of threads wherever nnU-Net asks for spawned processes, each of which imports nnU-Net for 10 s."""
    import multiprocessing
    from multiprocessing.pool import ThreadPool

    original = multiprocessing.get_context

    def get_context(method=None):
        return SimpleNamespace(Pool=ThreadPool) if method == "spawn" else original(method)

    multiprocessing.get_context = get_context
    try:
        yield
    finally:
        multiprocessing.get_context = original


@contextmanager
def all_cores():
    """Also in a process that tests/conftest.py keeps to one of them."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    kept = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count()))
    try:
        yield
    finally:
        os.sched_setaffinity(0, kept)


def draw_case(party: Party, dim: int, rng):
    """An image and its labels, arrays (z, y, x): the brightest parts of two smooth random fields are a and b."""
    import numpy as np
    from scipy.ndimage import gaussian_filter

    shape = SHAPE[dim]
    sigma = (0, 5, 5) if dim == 2 else 3
    fields = [gaussian_filter(rng.standard_normal(shape), sigma, mode="wrap") for _ in range(2)]
    labels = np.zeros(shape, np.uint8)
    for value, (field, fraction) in enumerate(zip(fields, (0.25, 0.12)), start=1):
        labels[field > np.quantile(field, 1 - fraction)] = value
    image = np.array(party.intensities)[labels] + party.noise * rng.standard_normal(shape)
    return (100 * image).astype(np.float32), labels


def write_raw(world: World, party: Party) -> None:
    """The party's nnU-Net raw dataset, with labels for the test cases too (labelsTs)."""
    import numpy as np
    import SimpleITK as sitk

    folder = world.raw / party.dataset
    rng = np.random.default_rng(party.dataset_id)
    for part, count in zip(("Tr", "Ts"), CASES[world.dim]):
        for kind in ("images", "labels"):
            (folder / (kind + part)).mkdir(parents=True)
        for index in range(count):
            case = f"{part.lower()}_{index:03d}"
            image, labels = draw_case(party, world.dim, rng)
            for array, path in ((image, f"images{part}/{case}_0000"), (labels, f"labels{part}/{case}")):
                if world.rgb:
                    volume = sitk.GetImageFromArray(*((coloured(array), True) if array is image else (array[0],)))
                else:
                    volume = sitk.GetImageFromArray(array)
                    volume.SetSpacing(SPACING[world.dim])
                sitk.WriteImage(volume, str(folder / (path + world.ending)))
    write(folder / "dataset.json", {"channel_names": dict.fromkeys(party.colours, "rgb_to_0_1") or {"0": "MRI"},
                                    "labels": LABELS, "numTraining": CASES[world.dim][0], "file_ending": world.ending})


def coloured(image):
    """Intensities (1, y, x) as a colour photograph (y, x, 3)."""
    import numpy as np

    return np.clip(100 + image[0, ..., None] / 100 * COLOURS, 0, 255).astype(np.uint8)


def shrink_plans(world: World, party: Party) -> None:
    """Make the planned network small; patch size and preprocessing stay as nnU-Net planned them."""
    path = world.preprocessed / party.dataset / f"{PLANS}.json"
    plans = json.loads(path.read_text())
    plans["configurations"] = {world.configuration: plans["configurations"][world.configuration]}
    configuration = plans["configurations"][world.configuration]
    configuration["batch_size"] = BATCH_SIZE[world.dim]
    stages = len(party.features)
    configuration["architecture"]["arch_kwargs"].update(
        n_stages=stages, features_per_stage=list(party.features), kernel_sizes=[[3] * world.dim] * stages,
        strides=[[1] * world.dim] + [[2] * world.dim] * (stages - 1), n_conv_per_stage=[2] * stages,
        n_conv_per_stage_decoder=[2] * (stages - 1),
    )
    write(path, plans)


def write_splits(world: World, party: Party) -> None:
    """Two folds, each of which validates on the other's training cases."""
    cases = [f"tr_{i:03d}" for i in range(CASES[world.dim][0])]
    halves = cases[::2], cases[1::2]
    write(world.preprocessed / party.dataset / "splits_final.json",
          [{"train": halves[1 - k], "val": halves[k]} for k in range(2)])


def train_party(world: World, party: Party) -> None:
    """Plan, preprocess and train with nnU-Net's own functions, as its commands call them."""
    import numpy as np
    import torch
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprints,
        plan_experiments,
        preprocess,
    )
    from nnunetv2.run.run_training import run_training

    ids = [party.dataset_id]
    extract_fingerprints(ids, num_processes=1, show_progress_bar=False)
    os.environ["nnUNet_n_proc_DA"] = "1"  # the planner sets as many torch threads and fails on 0
    plan_experiments(ids)
    os.environ.update(world.env)
    shrink_plans(world, party)
    preprocess(ids, PLANS, [world.configuration], [1], show_progress_bar=False)
    write_splits(world, party)
    for fold in world.folds:
        random.seed(fold)
        np.random.seed(fold)
        torch.manual_seed(fold)
        run_training(party.dataset, world.configuration, fold, TRAINER, PLANS, device=torch.device("cpu"))


def build(root: Path, dim: int, rgb: bool = False, only: int | None = None) -> World:
    """Build the world in an empty or missing folder, or `only` one of its parties."""
    world = World(root, dim, rgb)
    os.environ.update(world.env)
    for folder in (world.raw, world.preprocessed, world.results):
        folder.mkdir(parents=True, exist_ok=True)
    import torch

    torch.set_num_threads(int(QUIET["OMP_NUM_THREADS"]))
    with thread_pools():
        for party in world.parties if only is None else [world.parties[only]]:
            start = time.time()
            write_raw(world, party)
            train_party(world, party)
            print(f"{party.dataset}: {time.time() - start:.0f} s")
    return world


def write(path: Path, value) -> None:
    path.write_text(json.dumps(value, indent=4))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dim", type=int, choices=(2, 3), required=True)
    parser.add_argument("--rgb", action="store_true")
    parser.add_argument("--party", type=int, choices=(0, 1), help="build this one only")
    arguments = parser.parse_args()
    with all_cores():
        build(arguments.folder.resolve(), arguments.dim, arguments.rgb, arguments.party)


if __name__ == "__main__":
    main()
