"""Folds as jobs of their own, at the same time and in the same folders."""

import json
import multiprocessing

import pytest
import torch
from stitched_model import FOLDER, call, forkserver, hold, start, stitch, stitched_env

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import read_json, write_json
from nnunetv2_stitch.locks import locked, try_lock

OPTIONS = ["-device", "cpu", "-epochs", "1", "-iterations", "2", "-positions", "2,20,41", "--disable_progress_bar"]


def add_own(path: str, number: int) -> None:
    for _ in range(20):
        with locked(f"{path}.lock"):
            write_json(path, {**read_json(path), f"{number}.{len(read_json(path))}": number})


def test_a_lock_keeps_other_processes_out_and_ends_with_its_process(tmp_path):
    path = str(tmp_path / "a" / "x.lock")
    context = multiprocessing.get_context("fork")
    held, let_go = context.Event(), context.Event()
    other = context.Process(target=hold, args=(path, held, let_go))
    other.start()
    assert held.wait(300) and try_lock(path) is None
    other.kill()
    other.join()
    lock = try_lock(path)  # the file is left over, the lock is not
    assert lock is not None
    lock.release()
    assert not list((tmp_path / "a").iterdir())


def test_what_is_read_and_written_under_a_lock_is_not_lost(tmp_path):
    path = str(tmp_path / "plans.json")
    write_json(path, {})
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=add_own, args=(path, number)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert len(read_json(path)) == 80 and [p.name for p in tmp_path.iterdir()] == ["plans.json"]


@pytest.mark.slow
def test_a_fold_that_another_command_writes_is_left_alone(stitched2d, copy_world, nnunet_env, thread_pools):
    world = nnunet_env(copy_world(stitched2d.world))
    folder = world.results / stitched2d.folder.relative_to(stitched2d.world.results)
    context = forkserver()
    held, let_go = context.Event(), context.Event()
    other = context.Process(target=hold, args=(str(folder / ".fold_1.lock"), held, let_go))
    other.start()
    assert held.wait(300)
    before = (folder / "fold_1" / "checkpoint_final.pth").read_bytes()
    asked = {"epochs": 2, "iterations": 4, "continue_training": True}
    with pytest.raises(StitchError, match="fold 1 of .* is being written by another command"):
        stitch(world, **asked)
    with pytest.raises(StitchError, match="fold 1 of .* is being written by another command"):
        stitch(world, only_selection=True)
    alone = stitch(world, folds=[0], rule="3", position=7, **asked)
    assert alone.folds == [0] and (folder / "fold_1" / "checkpoint_final.pth").read_bytes() == before
    let_go.set()
    other.join(30)
    assert stitch(world, only_selection=True).folds == [0, 1]


def record(world, folder) -> dict:
    """What must not depend on which command made a fold: sweeps, settings, weights, plans."""
    found = {}
    for fold in (0, 1):
        own = folder / f"fold_{fold}"
        checkpoint = torch.load(own / "checkpoint_final.pth", weights_only=True)
        found[f"weights {fold}"] = {k: v.tolist() for k, v in checkpoint["network_weights"].items()}
        found[f"sweep {fold}"] = json.loads((own / "sweep.json").read_text())
        found[f"validation {fold}"] = json.loads((own / "validation" / "summary.json").read_text())["foreground_mean"]
    selection = json.loads((folder / "stitch_selection.json").read_text())
    found |= {k: selection[k] for k in ("positions", "settings", "validation_dice")}
    plans = json.loads((folder / "plans.json").read_text())
    assert plans == json.loads((world.preprocessed / world.host.dataset / f"{plans['plans_name']}.json").read_text())
    return {**found, "plans": {**plans, "plans_name": ""}}


@pytest.mark.slow
def test_two_commands_at_once_and_one_choice_equal_one_command(world2d, copy_world):
    world = copy_world(world2d)
    env = stitched_env(world)
    parties = [str(world.host.dataset_id), str(world.partner.dataset_id)]
    command = ["nnUNetv2_train_stitch", *parties, *OPTIONS]
    at_once = [start(*command, "-f", str(fold), "-o_p", "AtOnce", env=env) for fold in (0, 1)]
    for running in at_once:
        assert running.wait() == 0, running.output[-4000:]
    call(*command, "--select", "-o_p", "AtOnce", env=env)
    call(*command, env=env)
    folder = world.results / world.host.dataset / f"{FOLDER}__2d"
    together = record(world, folder)
    apart = record(world, folder.with_name(folder.name.replace("nnUNetStitchPlans", "AtOnce")))
    assert together.keys() == apart.keys()
    for name, value in together.items():
        assert value == apart[name], name
    assert not [p for p in world.root.rglob("*") if p.name.endswith((".lock", ".jsonl")) or p.name.startswith(".tmp")]
