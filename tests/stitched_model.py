"""Stitched models of the small worlds, and commands in processes of their own that can be killed."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import world as worlds

FOLDER = "nnUNetTrainerStitch__nnUNetStitchPlans"
#: of nnUNetv2_predict: no processes beside it, each of which would import nnU-Net
ALONE = ("-device", "cpu", "-npp", 0, "-nps", 0)
#: for tests that care for the steps and not for the stitches: a few positions along the network, a few steps
SHORT = {"folds": [0], "positions": [2, 20, 41], "epochs": 1, "iterations": 2}
ENTRIES = {
    "nnUNetv2_train_stitch": "nnunetv2_stitch.entrypoints.train_stitch:train_stitch_entry",
    "nnUNetv2_sweep_stitched": "nnunetv2_stitch.entrypoints.sweep_stitched:sweep_stitched_entry",
    "nnUNetv2_predict_stitched": "nnunetv2_stitch.entrypoints.predict_stitched:predict_stitched_entry",
    "nnUNetv2_adapt_party": "nnunetv2_stitch.entrypoints.adapt_party:adapt_party_entry",
    "nnUNetv2_distill_stitched": "nnunetv2_stitch.entrypoints.distill_stitched:distill_stitched_entry",
    "nnUNetv2_install_party": "nnunetv2_stitch.entrypoints.install_party:install_party_entry",
    "nnUNetv2_stitch_info": "nnunetv2_stitch.entrypoints.stitch_info:stitch_info_entry",
    "world.py": "world:main",
    "nnUNetv2_train": "nnunetv2.run.run_training:run_training_entry",
    "nnUNetv2_predict": "nnunetv2.inference.predict_from_raw_data:predict_entry_point",
    "nnUNetv2_evaluate_folder": "nnunetv2.evaluation.evaluate_predictions:evaluate_folder_entry_point",
    "nnUNetv2_find_best_configuration":
        "nnunetv2.evaluation.find_best_configuration:find_best_configuration_entry_point",
    "nnUNetv2_export_model_to_zip": "nnunetv2.model_sharing.entry_points:export_pretrained_model_entry",
    "nnUNetv2_install_pretrained_model_from_zip": "nnunetv2.model_sharing.entry_points:install_from_zip_entry_point",
}


STOCK = """
import sys, torch
sys.modules["nnunetv2_stitch"] = None  # as where it is not installed: importing it fails
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
predictor = nnUNetPredictor(device=torch.device("cpu"), use_mirroring=False, allow_tqdm=False)
predictor.initialize_from_trained_model_folder(sys.argv[1], (0,))
predictor.predict_from_files_sequential(sys.argv[2], sys.argv[3], False, True, None)
"""


@dataclass(frozen=True)
class Stitched:
    """A trained stitched model in a copy of a world. `parents` is `tree` of both parents' folders before it."""

    world: worlds.World
    result: object
    parents: dict[str, str]

    @property
    def folder(self) -> Path:
        return Path(self.result.model_folder)


def stitch(world: worlds.World, **arguments):
    """`train_stitch` of the world's two parties, on the CPU, under the environment that the test has set."""
    from nnunetv2_stitch.pipeline import train_stitch
    arguments = {"device": "cpu", "progress": False, "page": False, **arguments}
    return train_stitch(world.host.dataset_id, world.partner.dataset_id, **arguments)


_built: dict[worlds.World, Stitched] = {}


def trained(world: worlds.World, factory: pytest.TempPathFactory) -> Stitched:
    """The world's folds stitched at every position, in a copy of the world; once per session. Read only."""
    if world not in _built:
        _built[world] = once_for_all_workers(factory, f"stitched_{world.root.name}", lambda root: _trained(world, root))
    return _built[world]


def _trained(world: worlds.World, root: Path) -> Stitched:
    copy = replace(world, root=Path(shutil.copytree(world.root, root / "world")))
    before = tree(copy.model(copy.host), copy.model(copy.partner))
    with environment(copy.env), worlds.thread_pools():
        result = stitch(copy, epochs=2, iterations=4, page=True)
    return Stitched(copy, result, before)


def once_for_all_workers(factory: pytest.TempPathFactory, name: str, make):
    """`make(folder)`, or what it gave in another of this run's processes of pytest-xdist, whose temporary folders lie
    beside one another; what it gives is pickled."""
    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder, kept = shared / name, shared / f"{name}.pickle"
    with open(shared / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a worker that crashed
            folder.mkdir()
            kept.write_bytes(pickle.dumps(make(folder)))
        return pickle.loads(kept.read_bytes())


@contextlib.contextmanager
def environment(variables: dict[str, str]):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        patch.setenv("nnUNet_extTrainer", variables.get("nnUNet_extTrainer", ""))  # train_stitch adds to it
        yield


def tree(*folders: Path) -> dict[str, str]:
    """sha256 of every file below the folders, by path."""
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest()
            for folder in folders for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def stitched_env(world: worlds.World) -> dict[str, str]:
    """nnU-Net's three folders and nothing of ours, nor of the tests' trainers, for another process."""
    return {**world.env, "nnUNet_extTrainer": "", "PYTHONPATH": python_path()}


def python_path() -> str:
    """So that other processes find the package that is tested, installed or not."""
    import nnunetv2_stitch
    root = str(Path(nnunetv2_stitch.__file__).parents[1])
    if root in sysconfig.get_paths().values():  # found anyway, and must not come before the standard library
        root = ""
    return os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))


@dataclass(frozen=True)
class Running:
    """A command in a process of its own."""

    process: multiprocessing.Process
    log: Path

    @property
    def output(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def wait(self, seconds: float = 300) -> int:
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"still running after {seconds} s:\n{self.output[-3000:]}")
        return self.process.exitcode


def forkserver():
    """Processes that need not import torch and nnU-Net anew, and have never run a thread of theirs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["nnunetv2_stitch.pipeline", "nnunetv2_stitch.inference.predictor",
                                    "nnunetv2.run.run_training"])
    return context


def hold(path: str, held, let_go) -> None:
    """Keep a lock from the event `held` to the event `let_go`. Here, because other processes import it by name."""
    from nnunetv2_stitch.locks import locked
    with locked(path):
        held.set()
        let_go.wait(300)


def start(command: str, *arguments: str, env: dict[str, str]) -> Running:
    """Run one of `ENTRIES` as its console script would, its streams going to a file."""
    handle, log = tempfile.mkstemp(suffix=".log")
    os.close(handle)
    with environment({"PYTHONPATH": python_path()}):  # for the fork server, which is started by the first process
        process = forkserver().Process(target=_run, args=([command, *map(str, arguments)], env, log))
        process.start()
    return Running(process, Path(log))


def call(command: str, *arguments: str, env: dict[str, str], code: int = 0) -> str:
    """`start` and wait; returns the output."""
    running = start(command, *arguments, env=env)
    actual, output = running.wait(), running.output
    running.log.unlink()
    assert actual == code, f"{command} {arguments} left with {actual}:\n{output[-4000:]}"
    return output


def _run(argv: list[str], env: dict[str, str], log: str) -> None:
    stream = os.open(log, os.O_WRONLY | os.O_APPEND)
    for number in (1, 2):
        os.dup2(stream, number)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))
    os.environ.update(env)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it, and so would we
    run_entry(argv)


def run_entry(argv: list[str]) -> None:
    """One of `ENTRIES` with its arguments, in this process."""
    sys.argv = argv
    module, _, function = ENTRIES[argv[0]].partition(":")
    with worlds.thread_pools():
        getattr(__import__(module, fromlist=[function]), function)()


@contextlib.contextmanager
def as_nobody():
    """Root may write everywhere, so give that up for a while."""
    if os.getuid() != 0:
        yield
        return
    import nnunetv2_stitch
    if any(not folder.stat().st_mode & 0o001 for folder in Path(nnunetv2_stitch.__file__).resolve().parents):
        pytest.skip("the package is installed where other users cannot read it")
    os.setresgid(65534, 65534, 0)
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)


def console_script(name: str, *arguments: str, world: worlds.World, **variables: str) -> str:
    """A stock command as users run it, with nnU-Net's three folders set and no variable of ours; its output."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith("nnUNet_")}
    env = {**keep, **{k: v for k, v in world.env.items() if k != "nnUNet_extTrainer"},
           "PYTHONPATH": python_path(), **variables}
    done = subprocess.run([str(Path(sys.executable).parent / name), *map(str, arguments)], env=env, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
    assert done.returncode == 0, f"{name} {arguments}:\n{done.stdout[-4000:]}"
    return done.stdout


def stock_prediction(folder: Path, images: Path, output: Path, fold: int | str = 0,
                     checkpoint: str = "checkpoint_final.pth", mirroring: bool = True) -> Path:
    """What stock nnU-Net's predictor writes with a model folder, in this process; the output folder."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    predictor = nnUNetPredictor(use_mirroring=mirroring, device=torch.device("cpu"), allow_tqdm=False)
    Path(output).mkdir()
    with contextlib.redirect_stdout(io.StringIO()):
        predictor.initialize_from_trained_model_folder(str(folder), (fold,), checkpoint)
        predictor.predict_from_files_sequential(str(images), str(output))
    return output


def stock_alone(folder: Path, images: Path, output: Path) -> None:
    """Predict with stock nnU-Net in a process where this package cannot be imported."""
    Path(output).mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("nnUNet_") and k != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", STOCK, folder, images, output], check=True, env=environment,
                   cwd=output.parent, stdout=subprocess.DEVNULL, timeout=300)


def read_segmentations(folder: Path, ending: str = ".nii.gz") -> dict:
    """Arrays of a folder's images by file name."""
    import SimpleITK as sitk
    files = sorted(Path(folder).glob(f"*{ending}"))
    return {f.name: sitk.GetArrayFromImage(sitk.ReadImage(str(f))) for f in files}


def assert_equal_voxels(a: Path, b: Path, cases: int, ending: str = ".nii.gz") -> None:
    one, two = read_segmentations(a, ending), read_segmentations(b, ending)
    assert one.keys() == two.keys() and len(one) == cases
    for name, voxels in one.items():
        assert (voxels == two[name]).all(), f"{name}: {(voxels != two[name]).sum()} voxels differ"
    assert any(voxels.any() for voxels in one.values()), "nothing but background proves nothing"
