"""Double-batched step against a literally doubled batch: time and peak memory, with and without checkpointing."""

import multiprocessing
import resource

import torch
from common import machine, medians, parser, plain_unet, supernet
from reference import literally_doubled_loss

from nnunetv2_stitch.fitting.closed_form import all_average
from nnunetv2_stitch.fitting.double_batched import double_batched_loss

SEGMENTS = 12
WAYS = {"doubled": literally_doubled_loss, "ours": double_batched_loss,
        "ours, checkpointed": lambda net, x: double_batched_loss(net, x, SEGMENTS)}


def set_up(device: str, dim: int, batch: int):
    torch.manual_seed(0)
    net = supernet(plain_unet(dim, stages=6 if dim == 2 else 5), device)
    net.apply_setting(all_average(net))
    x = torch.randn(batch, 1, *((128, 128) if dim == 2 else (48, 48, 48)), device=device)
    return net, x


def step(net, x, way: str) -> None:
    net.zero_grad()
    WAYS[way](net, x).backward()


def peak_bytes(way: str, device: str, dim: int, batch: int, threads: int, queue) -> None:
    """Peak memory of one step above what the networks and the batch take; one process per way."""
    torch.set_num_threads(threads)
    net, x = set_up(device, dim, batch)
    step(net, x[:1], way)  # code and buffers of the libraries are no part of the step
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(net, x, way)
        queue.put(torch.cuda.max_memory_allocated() - before)
        return
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step(net, x, way)
    queue.put(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))


def main() -> None:
    add = parser(__doc__)
    add.add_argument("-dim", type=int, default=2, choices=(2, 3))
    add.add_argument("-batch", type=int, default=12)
    args = add.parse_args()
    torch.set_num_threads(args.threads)
    context = multiprocessing.get_context("spawn")
    peaks = {}
    for way in WAYS:
        queue = context.Queue()
        process = context.Process(target=peak_bytes, args=(way, args.device, args.dim, args.batch, args.threads, queue))
        process.start()
        peaks[way] = queue.get()
        process.join()
    net, x = set_up(args.device, args.dim, args.batch)
    times = medians({w: (lambda w=w: step(net, x, w)) for w in WAYS}, args.repeats, args.device)
    print(machine(args.device))
    for way in WAYS:
        print(f"{args.dim}d, {way}: median {times[way]:.3f} s, peak {peaks[way] / 2**20:.0f} MiB; "
              f"ratio to doubled: time {times[way] / times['doubled']:.2f}, memory {peaks[way] / peaks['doubled']:.2f}")


if __name__ == "__main__":
    main()
