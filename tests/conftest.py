"""Fixtures for all tests: the two small worlds of tests/world.py, built once and kept in pytest's cache."""

import fcntl
import hashlib
import os
import shutil
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import stitched_model
import world as worlds

TESTS = Path(__file__).resolve().parent
# Read while torch and nnU-Net are imported, so set before any test file is. Nobody's own folders may be touched.
os.environ.update(worlds.QUIET, MATPLOTLIBRC=str(TESTS / "data" / "matplotlibrc"))
for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "nnUNet_extTrainer"):
    os.environ.pop(variable, None)
# Files that take long, the longest first: a process that begins with one of them when all others are done is waited
# for. The second needs no world, and is run while the first builds one.
LONG = """
    baselines/test_compare test_packaging benchmarks/test_study baselines/test_adapted_rows training/test_adapting
    benchmarks/test_ablations demo/test_whole_demo test_notebook federation/test_flower_run exchange/test_parent_check
    pipeline/test_interrupted entrypoints/test_merge_party pipeline/test_torchrun stock/test_chain
    benchmarks/test_many_cases pipeline/test_options pipeline/test_continuing inference/test_colour_images
    benchmarks/test_rounds entrypoints/test_train_stitch entrypoints/test_evaluate_stitched bridging/test_same_answer
    bridging/test_several_partners gating/test_gated_model entrypoints/test_select entrypoints/test_sweep_stitched
    pipeline/test_label_and_axis_terms stock/test_made_before baselines/test_reuse distillation/test_training
    training/test_rounds_of_merging baselines/test_federated federation/test_flower_app gating/test_stock_prediction
    pipeline/test_folds_at_once demo/test_shipped trainers/test_stock_training guiding/test_guided
    entrypoints/test_dry_run training/test_adapted_partner_goes_on fitting/test_digits
""".split()


def pytest_configure(config):
    """A process of pytest-xdist keeps to one core. Training takes as many threads as it may use cores, and in several
    processes they would wait for one another."""
    config.option.loadscopereorder = False  # else files with few tests come last, and those are the long ones
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker) % len(cores)]})


def pytest_collection_modifyitems(items):
    place = {TESTS / f"{name}.py": i for i, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


@pytest.fixture(scope="session")
def world2d(pytestconfig, tmp_path_factory) -> worlds.World:
    """Two parties with 2d images and two trained folds each (40 s to build). Read only: see `copy_world`."""
    return _world(2, pytestconfig, tmp_path_factory)


@pytest.fixture(scope="session")
def world3d(pytestconfig, tmp_path_factory) -> worlds.World:
    """Two parties with 3d images and one trained fold each (35 s to build), for slow tests. Read only."""
    return _world(3, pytestconfig, tmp_path_factory)


@pytest.fixture(scope="session")
def world_rgb(pytestconfig, tmp_path_factory) -> worlds.World:
    """Two parties with colour images in png, one trained fold each (30 s to build), for slow tests. Read only."""
    return _world(2, pytestconfig, tmp_path_factory, rgb=True)


@pytest.fixture(scope="session")
def stitched2d(world2d, tmp_path_factory) -> stitched_model.Stitched:
    """Two folds stitched at every position. Read only: `copy_world(stitched2d.world)` gives a copy to change."""
    return stitched_model.trained(world2d, tmp_path_factory)


@pytest.fixture
def copy_world(tmp_path):
    """`copy_world(world2d)`: a copy that the test may change."""
    def copy(world: worlds.World) -> worlds.World:
        return replace(world, root=Path(shutil.copytree(world.root, tmp_path / "world")))
    return copy


@pytest.fixture
def nnunet_env(monkeypatch):
    """`nnunet_env(world)`: nnU-Net works on this world until the end of the test. Returns the world."""
    def use(world: worlds.World) -> worlds.World:
        for name, value in world.env.items():
            monkeypatch.setenv(name, value)
        return world
    return use


@pytest.fixture
def thread_pools():
    """nnU-Net uses threads where it would spawn processes: minutes less for a test that trains or validates."""
    with worlds.thread_pools():
        yield


def _world(dim: int, config, tmp_path_factory, rgb: bool = False) -> worlds.World:
    """Each party in a process of its own, because nnU-Net's set-up of logging, threads and seeds is no test's business;
    both at once, because other tests wait for them."""
    digest = hashlib.sha256(version("nnunetv2").encode())
    for source in (TESTS / "world.py", *sorted(worlds.TRAINERS.glob("*.py"))):
        digest.update(source.read_bytes())
    cache = getattr(config, "cache", None)
    folder = cache.mkdir("worlds") if cache else tmp_path_factory.mktemp("worlds")
    kind = "rgb" if rgb else f"{dim}d"
    root = folder / f"{kind}_{digest.hexdigest()[:12]}"
    with open(folder / f"{kind}.lock", "w") as lock:  # several pytest processes may want it at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.is_dir():
            unfinished = folder / f"{root.name}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            command = ["world.py", str(unfinished), "--dim", str(dim), *(["--rgb"] if rgb else [])]
            parties = [stitched_model.start(*command, "--party", str(i), env=worlds.QUIET) for i in (0, 1)]
            for party in parties:
                if party.wait(3000):
                    raise RuntimeError(f"{' '.join(command)} failed:\n{party.output[-5000:]}")
                party.log.unlink()
            unfinished.rename(root)
    return worlds.World(root, dim, rgb)
