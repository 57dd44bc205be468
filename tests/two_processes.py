"""What the tests of distributed training run in each process; here, because spawned processes import it by name."""

import torch
from networks import build, ensemble, image, spec
from torch import distributed as dist

from nnunetv2_stitch.fitting.closed_form import DirectMatching, all_average
from nnunetv2_stitch.fitting.double_batched import double_batched_loss

WORLD = 2


def supernet():
    specs = spec(), spec(width=4)
    net = ensemble(*specs, networks=[build(s, seed) for seed, s in enumerate(specs)])
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
