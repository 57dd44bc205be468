"""Two CPU processes with gloo do what one process does with all the data."""

import tempfile
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from two_processes import WORLD, batches, gradients_of, matched, process, supernet


@pytest.fixture(scope="module")
def processes():
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(process, (folder,), WORLD, start_method="spawn")
        yield [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


@pytest.mark.slow
def test_gradients_are_the_mean_over_processes(processes):
    net = supernet()
    wanted = gradients_of(net, *batches())
    alone = gradients_of(net, batches()[0])
    assert any((a - w).abs().max() > 1e-2 * w.abs().max() for a, w in zip(alone, wanted)), "the halves must differ"
    for result in processes:
        assert len(result["gradients"]) == len(wanted) > 0
        for got, want in zip(result["gradients"], wanted):
            torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-6 + 1e-4 * float(want.abs().max()))


@pytest.mark.slow
def test_direct_matching_adds_up_over_processes(processes):
    scores, stitches = matched(supernet(), *batches())
    alone, _ = matched(supernet(), batches()[0])
    assert any(abs(a - b) > 1e-3 for p in scores for a, b in zip(alone[p], scores[p])), "the halves must differ"
    for result in processes:
        for position, values in scores.items():
            assert result["scores"][position] == pytest.approx(values, abs=1e-4)
        for name, want in stitches.items():
            torch.testing.assert_close(result["stitches"][name], want, rtol=1e-2, atol=1e-2)
