"""Every writer of plans holds their lock: nothing is lost where jobs of several folds work under one name."""

import ast
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from distill_steps import teacher_of
from model_folders import centre, edit, make_model, results  # noqa: F401 -- fixtures
from stitched_model import call, forkserver, hold, start, stitched_env

import nnunetv2_stitch
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.training.folds import claimed
from nnunetv2_stitch.training.from_merged import FromMergedRequest, prepare

#: into folders that nothing else can know of yet, and the demo's own data
ALONE = {"exchange/install.py", "demo/parents.py", "demo/shipped.py", "training/adapt_plans.py"}


def locked_calls(tree: ast.AST, inside: bool = False):
    """Calls of write_json that have plans in their arguments, and whether they stand within `plans_locked`."""
    for node in ast.iter_child_nodes(tree):
        held = inside or isinstance(node, ast.With) and any("plans_locked" in ast.unparse(i) for i in node.items)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "write_json" and "plans" in ast.unparse(node):
            yield held, node.lineno
        yield from locked_calls(node, held)


def test_all_that_write_plans_hold_the_lock():
    root = Path(nnunetv2_stitch.__file__).parent
    found = {(str(path.relative_to(root)), line): held for path in sorted(root.rglob("*.py"))
             for held, line in locked_calls(ast.parse(path.read_text()))}
    # write_setting and note_places are called with the lock held
    bare = {where for (where, _), held in found.items() if not held} - ALONE - {"selection/deploy.py",
                                                                                 "pipeline/continuing.py"}
    assert sum(found.values()) > 5 and not bare


@pytest.fixture
def job_of(make_model, results, centre):  # noqa: F811
    """`job_of(fold, ...)`: a training of one fold from a merged model, as its own command prepares it."""
    (centre / "dataset_fingerprint.json").write_text("{}")
    model = make_model("Dataset911_Merged", folds=(0, 1))

    def make(fold, continue_training=False, **changed):
        return prepare(FromMergedRequest(str(model), 1, folds=[fold], **changed), continue_training)
    return make


def folds_of(job) -> set:
    return set(read_json(job.plans_file)["configurations"]["2d"][job.record.key]["folds"])


def test_jobs_that_were_prepared_at_the_same_time_keep_each_others_folds(job_of):
    jobs = [job_of(0), job_of(1)]  # neither knows of the other
    with claimed(jobs[0], False), claimed(jobs[1], False) as second:
        assert folds_of(second) == {"0", "1"} == set(second.record.folds)
    with pytest.raises(StitchError, match="already holds fold 1; add --c"), claimed(jobs[1], False):
        pass
    with claimed(replace(jobs[0]), True):  # a job that goes on, prepared before the other had begun
        assert folds_of(jobs[0]) == {"0", "1"}


def test_a_job_that_differs_from_what_began_meanwhile_is_refused(job_of):
    first, other = job_of(0), job_of(1, rate=0.5)
    with claimed(first, False), pytest.raises(StitchError, match="was begun with -lr 0.001"), claimed(other, False):
        pass
    assert folds_of(first) == {"0"} and not Path(other.fold_folder(1)).exists()


def test_a_writer_waits_and_a_fold_has_one_command(job_of):
    job, said = job_of(0), []
    context = forkserver()
    events = [context.Event() for _ in range(4)]
    locks = [f"{job.plans_file}.lock", f"{job.model_folder}/.fold_0.lock"]
    others = [context.Process(target=hold, args=(path, *events[2 * i:2 * i + 2])) for i, path in enumerate(locks)]
    for process, held in zip(others, events[::2]):
        process.start()
        assert held.wait(300)
    failed = []

    def write():
        try:
            with claimed(job, False, said.append):
                pass
        except StitchError as error:
            failed.append(str(error))
    writer = threading.Thread(target=write)
    writer.start()
    while not said:
        assert writer.is_alive(), failed
        time.sleep(0.01)
    assert "waiting for another command" in said[0] and not Path(job.plans_file).exists()
    events[1].set()
    writer.join(300)
    assert len(failed) == 1 and "fold 0 of" in failed[0] and "is being written by another command" in failed[0]
    assert not Path(job.plans_file).exists()
    events[3].set()
    for process in others:
        process.join(300)
    with claimed(job, False):
        assert folds_of(job) == {"0"}
    assert not [p for p in Path(job.preprocessed_folder).iterdir() if p.name.endswith(".lock")]


@pytest.mark.slow
def test_students_of_two_folds_taught_at_the_same_time(stitched2d, copy_world):
    """Two processes on one preprocessed folder, unlabelled images included; both students are there afterwards."""
    world = copy_world(stitched2d.world)
    env = stitched_env(world)
    command = ["nnUNetv2_distill_stitched", "-m", teacher_of(world), "-d", world.host.dataset_id, "-epochs", 1,
               "-iterations", 2, "-device", "cpu", "--disable_progress_bar", "-unlabelled",
               world.test_images(world.partner)]
    running = [start(*command, "-f", fold, env=env) for fold in (0, 1)]
    for one in running:
        assert one.wait() == 0, one.output[-4000:]
    plans = read_json(world.preprocessed / world.host.dataset / "nnUNetDistilledPlans.json")
    assert set(plans["configurations"]["2d"]["distillation"]["folds"]) == {"0", "1"}
    output = call(*command, "-f", 0, 1, "--c", env=env)
    assert output.count("trained before") == 2
