"""Two CPU processes with gloo do what one process does with all the data."""

import tempfile
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from networks import build, ensemble, image, spec
from torch import distributed as dist

from nnunetv2_stitch.fitting.closed_form import DirectMatching, all_average
from nnunetv2_stitch.fitting.double_batched import double_batched_loss

WORLD = 2


def supernet():
    specs = spec(), spec(width=4)
    net = ensemble(*specs, [build(s, seed) for seed, s in enumerate(specs)])
    net.apply_setting(all_average(net))
    return net


def batches() -> list[torch.Tensor]:
    """One per process, unlike each other."""
    return [image(seed=seed) * (1 + seed) + seed for seed in range(WORLD)]


def gradients_of(net, *inputs) -> list[torch.Tensor]:
    net.zero_grad()
    for x in inputs:
        (net(x, objective=double_batched_loss) / len(inputs)).backward()
    return [p.grad.clone() for n, p in net.named_parameters() if "switches." in n]


def matched(net, *inputs) -> tuple[dict, dict]:
    matching = DirectMatching(net)
    for x in inputs:
        matching.update(x)
    matching.reduce()
    scores = matching.solve()
    return scores, net.stitch_state()


def process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    net = supernet()
    mine = batches()[rank]
    gradients = gradients_of(torch.nn.parallel.DistributedDataParallel(net), mine)
    scores, stitches = matched(net, mine)
    torch.save({"gradients": gradients, "scores": scores, "stitches": stitches}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


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
