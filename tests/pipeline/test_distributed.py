"""Two and four CPU processes with gloo do what one process does with all the data."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import several_processes as processes
import torch
import torch.multiprocessing as mp
from several_processes import CASES, batches, gradients_of, maps, matched, score, supernet
from stitched_model import environment, forkserver, python_path

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import write_json
from nnunetv2_stitch.pipeline import Request, prepare
from nnunetv2_stitch.pipeline.fold_run import _spawn, require_processes
from nnunetv2_stitch.registration import trainers_folder

pytestmark = pytest.mark.slow


def start(function, size, folder) -> None:
    forkserver()
    with environment({"PYTHONPATH": python_path()}):
        mp.start_processes(function, (folder, size), size, start_method="forkserver")


@pytest.fixture(scope="module", params=[2, 4])
def results(request):
    with tempfile.TemporaryDirectory() as folder:
        start(processes.process, request.param, folder)
        yield [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(request.param)]


def test_gradients_are_the_mean_over_processes(results):
    net, inputs = supernet(), batches(len(results))
    wanted = gradients_of(net, *inputs)
    alone = gradients_of(net, inputs[0])
    assert any((a - w).abs().max() > 1e-2 * w.abs().max() for a, w in zip(alone, wanted)), "the parts must differ"
    for result in results:
        assert len(result["gradients"]) == len(wanted) > 0
        for got, want in zip(result["gradients"], wanted):
            torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-6 + 1e-4 * float(want.abs().max()))


def test_direct_matching_adds_up_over_processes(results):
    inputs = batches(len(results))
    scores, stitches = matched(supernet(), *inputs)
    alone, _ = matched(supernet(), inputs[0])
    assert any(abs(a - b) > 1e-3 for p in scores for a, b in zip(alone[p], scores[p])), "the parts must differ"
    for result in results:
        for position, values in scores.items():
            assert result["scores"][position] == pytest.approx(values, abs=1e-4)
        for name, want in stitches.items():
            torch.testing.assert_close(result["stitches"][name], want, rtol=1e-2, atol=1e-2)


def test_moments_are_those_of_all_pixels_to_rounding(results):
    """Means of 100 beside a spread of 1: raw second moments in float32 would have three digits left."""
    pixels = torch.cat([torch.cat([m.double().transpose(0, 1).flatten(1) for m in maps(rank)])
                        for rank in range(len(results))], 1)
    for result in results:
        assert result["count"] == pixels.shape[1]
        apart = pixels - result["shift"][:, None]
        wanted = apart @ apart.T
        torch.testing.assert_close(result["first"], pixels.sum(1), rtol=1e-6, atol=0)
        torch.testing.assert_close(result["second"], wanted, rtol=0, atol=1e-6 * float(wanted.abs().max()))
        assert all(torch.equal(result[k], results[0][k]) for k in ("first", "second", "shift"))


def test_scores_of_shared_out_cases_are_those_of_one_process_in_their_order(results):
    wanted = np.stack([score(case) for case in range(CASES)])
    assert sorted(case for result in results for case in result["computed"]) == list(range(CASES))
    for result in results:
        np.testing.assert_array_equal(result["swept"].numpy(), wanted)


def test_a_lost_process_is_noticed_by_the_others(tmp_path):
    start(processes.loses_another, 3, str(tmp_path))
    assert sorted(p.name for p in tmp_path.glob("lost_*")) == ["lost_0", "lost_1"]


def test_processes_of_num_gpus_train_once_and_hand_on_their_errors(world2d, copy_world, nnunet_env):
    """On the CPU, which stands in for GPUs; from a fork server, because spawned processes import everything anew."""
    world = nnunet_env(copy_world(world2d))
    job = prepare(Request(world.host.dataset_id, world.partner.dataset_id, folds=[0], positions=[20], epochs=1,
                          iterations=1))
    write_json(job.plans_file, job.plans)
    forkserver()
    env = {**world.env, "nnUNet_extTrainer": str(trainers_folder())}
    step = processes.RunElsewhere(world.host.dataset, "2d", 0, job.trainer, job.request.plans_name, progress=False,
                                  env=tuple(env.items()))
    cpu = torch.device("cpu")
    with environment({"PYTHONPATH": python_path()}):
        _spawn(step, cpu, 2, "forkserver")
        assert (Path(job.model_folder) / "fold_0" / "sweep.json").is_file()
        assert not (Path(job.model_folder) / "fold_0" / "validation").exists(), "the position is not chosen yet"
        with pytest.raises(StitchError, match="no host weights for fold 1, only for folds 0"):
            _spawn(replace(step, fold=1), cpu, 2, "forkserver")
    with pytest.raises(StitchError, match="-num_gpus 2: .* start the command with torchrun"):
        require_processes(4, cpu, 2)
