"""What the tests of distributed training run in each process; here, because other processes import it by name."""

import os
import time
from dataclasses import dataclass

import numpy as np
import torch
from networks import build, ensemble, image, spec

from nnunetv2_stitch.distributed import Process, process_group, rank_and_world_size
from nnunetv2_stitch.errors import LostProcess
from nnunetv2_stitch.fitting.closed_form import DirectMatching, Moments, all_average
from nnunetv2_stitch.fitting.double_batched import double_batched_loss
from nnunetv2_stitch.parties.trust import is_trusting
from nnunetv2_stitch.pipeline.fold_run import FoldRun
from nnunetv2_stitch.selection.scored_cases import ScoredCases, score_cases

CASES = 7  # no multiple of the numbers of processes
ROWS = 3, 2


@dataclass(frozen=True)
class RunElsewhere(FoldRun):
    """For a process of the fork server, which has the environment that the server was started with."""

    env: tuple[tuple[str, str], ...] = ()

    def carry_out(self, device: torch.device) -> None:
        os.environ.update(self.env)
        super().carry_out(device)


@dataclass(frozen=True)
class TellsTrust:
    """A step that only notes whether its process trusts."""

    file: str

    def carry_out(self, device: torch.device) -> None:
        with open(self.file, "w") as f:
            f.write(str(is_trusting()))


def supernet():
    specs = spec(), spec(width=4)
    net = ensemble(*specs, networks=[build(s, seed) for seed, s in enumerate(specs)])
    net.apply_setting(all_average(net))
    return net


def batches(size: int) -> list[torch.Tensor]:
    """One per process, unlike each other."""
    return [image(seed=seed) * (1 + seed) + seed for seed in range(size)]


def maps(rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Feature maps of a match, with means far above their spread."""
    generator = torch.Generator().manual_seed(rank)
    a = torch.randn(2, 3, 8, 8, generator=generator)
    b = torch.einsum("oc,bcxy->boxy", torch.arange(12.).view(4, 3) / 12, a) + torch.randn(2, 4, 8, 8,
                                                                                            generator=generator)
    return 100 + rank + a, b - 50


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


def score(case: int) -> np.ndarray:
    """Dice values of a case that are no round numbers; one label is not there."""
    values = np.random.default_rng(case).random(ROWS)
    values[:, case % 2] = np.nan
    return values


def kept(folder: str) -> ScoredCases:
    return ScoredCases(f"{folder}/sweep", {"stitches": "abc", "positions": [1, 2], "cases": "def"})


def join(rank: int, size: int, folder: str):
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=_port(rank, folder))
    return process_group(Process(rank, size, rank, size), torch.device("cpu"))


def _port(rank: int, folder: str) -> str:
    """The first process chooses a free one and tells the others."""
    path = f"{folder}/port"
    if rank == 0:
        from nnunetv2.run.run_training import find_free_network_port
        with open(f"{path}.new", "w") as f:
            f.write(str(find_free_network_port()))
        os.rename(f"{path}.new", path)
    while not os.path.exists(path):
        time.sleep(0.01)
    with open(path) as f:
        return f.read()


def process(rank: int, folder: str, size: int) -> None:
    with join(rank, size, folder):
        net = supernet()
        mine = batches(size)[rank]
        gradients = gradients_of(torch.nn.parallel.DistributedDataParallel(net), mine)
        scores, stitches = matched(net, mine)
        moments = Moments(3, 4)
        moments.update(*maps(rank))
        moments.reduce()
        computed: list[int] = []
        swept = np.stack(score_cases(lambda case: computed.append(case) or score(case), CASES, kept(folder), "", False))
        torch.save({"gradients": gradients, "scores": scores, "stitches": stitches, "count": moments.count,
                    "first": moments.first + moments.count * moments.shift[:, 0], "second": moments.second,
                    "shift": moments.shift[:, 0], "swept": torch.from_numpy(swept), "computed": computed},
                   f"{folder}/{rank}.pt")


def loses_another(rank: int, folder: str, size: int) -> None:
    """The last process ends in the middle; the others write down what they are told of it."""
    try:
        with join(rank, size, folder):
            net = torch.nn.parallel.DistributedDataParallel(supernet())
            if rank_and_world_size()[0] == size - 1:
                os._exit(0)
            gradients_of(net, batches(size)[rank])
    except LostProcess:
        with open(f"{folder}/lost_{rank}", "w"):
            pass
        os._exit(0)  # what is left of the group must not be waited for
