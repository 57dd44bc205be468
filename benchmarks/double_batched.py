"""Double-batched step against a literally doubled batch: time and peak memory, with and without checkpointing."""

import argparse
import multiprocessing

import torch
from common import medians, parser, peak_bytes, precision, say_ratio, start, supernet, workload
from reference import literally_doubled_loss

from nnunetv2_stitch.fitting.closed_form import all_average
from nnunetv2_stitch.fitting.cutting import cuts_of_step
from nnunetv2_stitch.fitting.double_batched import double_batched_loss

SEGMENTS = 12
_cuts: dict[tuple[int, ...], list[int]] = {}


def cut_for_memory(net, x) -> torch.Tensor:
    """As `-checkpoint_segments auto`; the cuts are sought once, as in training."""
    shape = tuple(x.shape)
    if shape not in _cuts:
        _cuts[shape] = cuts_of_step(net, x)
    return double_batched_loss(net, x, _cuts[shape])


WAYS = {"doubled": literally_doubled_loss, "ours": double_batched_loss,
        f"ours, {SEGMENTS} pieces": lambda net, x: double_batched_loss(net, x, SEGMENTS),
        "ours, pieces for least memory": cut_for_memory}


def set_up(args: argparse.Namespace):
    spec, x = workload(args, args.dim, args.batch)
    net = supernet(spec, args.device)
    net.apply_setting(all_average(net))
    return net, x


def step(net, x, way: str, args: argparse.Namespace) -> None:
    net.zero_grad()
    with precision(args):
        loss = WAYS[way](net, x)
    loss.backward()


def peak_of_step(way: str, args: argparse.Namespace, queue) -> None:
    """Peak memory of one step above what the networks and the batch take; one process per way."""
    torch.set_num_threads(args.threads)
    net, x = set_up(args)
    step(net, x[:1], way, args)  # code and buffers of the libraries are no part of the step
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(net, x, way, args)
        queue.put(torch.cuda.max_memory_allocated() - before)
        return
    before = peak_bytes()
    step(net, x, way, args)
    queue.put(peak_bytes() - before)


def peak_of(way: str, args: argparse.Namespace) -> int:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=peak_of_step, args=(way, args, queue))
    process.start()
    process.join()  # one number fits the queue's buffer
    if process.exitcode:
        raise SystemExit(f"{way}: the process left with {process.exitcode} (-9: out of memory; try -batch)")
    return queue.get()


def step_times(args: argparse.Namespace) -> dict[str, float]:
    net, x = set_up(args)
    return medians({w: (lambda w=w: step(net, x, w, args)) for w in WAYS}, args.repeats, args.device)


def main() -> None:
    add = parser(__doc__)
    add.add_argument("-dim", type=int, default=2, choices=(2, 3))
    add.add_argument("-batch", type=int, help="default 12, of images as nnU-Net plans them 2")
    add.add_argument("--time_only", action="store_true", help="no memory, which takes a process for each way")
    args = add.parse_args()
    start(args)
    args.batch = args.batch or (2 if args.size == "planned" else 12)
    times = step_times(args)
    if args.device == "cuda":
        torch.cuda.empty_cache()  # for the processes to come
    peaks = {} if args.time_only else {way: peak_of(way, args) for way in WAYS}
    for way in WAYS:
        print(f"{args.dim}d, {way}: median {times[way]:.3f} s"
              + (f", peak {peaks[way] / 2**20:.0f} MiB" if peaks else ""))
    for way in list(WAYS)[1:]:
        what = f"double-batched step, {args.dim}d, {way}, to the literally doubled batch"
        say_ratio(times[way] / times["doubled"], f"{what}: time")
        if peaks:
            say_ratio(peaks[way] / peaks["doubled"], f"{what}: peak memory")


if __name__ == "__main__":
    main()
