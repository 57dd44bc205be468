"""Memory of training and of prediction: the estimate that --dry_run prints, against the measured peak.

On CUDA the peak is torch's, of one row after the other. On the CPU it is that of torch's own allocations in one run
(`allocated`), and how much the process grew beside it (`process`, one process per row), which also holds what libraries
take inside an operation. `-resenc_l` takes two U-Nets as nnU-Net's ResEnc-L planner makes them, with a patch of 128^3
and batches of 2; on the CPU it only estimates.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import queue
import resource
from contextlib import nullcontext

import torch
from common import machine, parser, plain_unet, residual_unet, supernet
from torch.profiler import ProfilerActivity, profile

from nnunetv2_stitch.fitting.cutting import best_cuts
from nnunetv2_stitch.fitting.double_batched import double_batched_loss, groups
from nnunetv2_stitch.pipeline.memory import Need, forward_bytes, forward_need, step_bytes, training_need
from nnunetv2_stitch.stitching.description import build_parent
from nnunetv2_stitch.stitching.network import StitchedEnsemble
from nnunetv2_stitch.stitching.runner import GraphRunner
from nnunetv2_stitch.stitching.setting import Setting

FLOAT, HALF = torch.float32, torch.bfloat16
RESENC_L = dict(widths=(32, 64, 128, 256, 320, 320), blocks=(1, 3, 4, 6, 6, 6))
CASES = {
    "2d 128^2 x 8": (plain_unet(2, 6), (8, 1, 128, 128)),
    "3d 48^3 x 2": (plain_unet(3, 4), (2, 1, 48, 48, 48)),
    "3d 32^3 x 2, residual": (residual_unet(3, (16, 32, 64), (1, 2, 2)), (2, 1, 32, 32, 32)),
}
WAYS = {"plain": (1, None), "12 pieces": (12, None), "auto": ("auto", None), "a quarter": (1, 4),
        "auto, a quarter": ("auto", 4)}


def prepare(spec: dict, shape, way: str, mixed: bool):
    """A supernet on the meta device, cuts and compared positions of one way to train."""
    segments, share = WAYS[way]
    with torch.device("meta"):
        net = supernet(spec, "meta")
    group = groups(net.positions, share and -(-len(net.positions) // share))[0]
    net.apply_setting(Setting.average_at(*group))
    compared = set(group) if share else None
    net.to(HALF if mixed else FLOAT)
    return net, best_cuts(net, shape, compared, HALF if mixed else FLOAT) if segments == "auto" else segments, compared


def measure(call, device: str, found) -> None:
    """Peak of torch's allocations and growth of the process during `call`, which ran once before on something small."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        found.put((torch.cuda.max_memory_allocated() - before,) * 2)
        return
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    call()
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    found.put((allocated(call), grown))


def allocated(call) -> int:
    """Peak of what torch allocates on the CPU during `call`."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    now = peak = 0
    for event in sorted((e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"),
                        key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def measure_training(found, spec, shape, cuts, compared, device: str, mixed: bool, threads: int) -> None:
    torch.set_num_threads(threads)
    net = supernet(spec, device)
    group = net.positions if compared is None else sorted(compared)
    net.apply_setting(Setting.average_at(*group))

    def step(x):
        net.zero_grad()
        with torch.autocast(device, HALF) if mixed else nullcontext():
            loss = double_batched_loss(net, x, cuts, compared=compared)
        loss.backward()

    step(torch.randn(1, 1, *([64] * 2 if len(shape) == 4 else [24] * 3), device=device))
    net.zero_grad()
    x = torch.randn(*shape, device=device)
    measure(lambda: step(x), device, found)


def measure_prediction(found, spec, shape, position: int | None, device: str, threads: int) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    net = build_parent(spec, 1, 3).eval() if position is None else deployed(spec, position)
    net.to(device)

    @torch.inference_mode()
    def predict(x):
        net(x)

    predict(torch.randn(1, 1, *([64] * 2 if len(shape) == 4 else [24] * 3), device=device))
    x = torch.randn(1, *shape[1:], device=device)
    measure(lambda: predict(x), device, found)


def deployed(spec: dict, position: int) -> StitchedEnsemble:
    with torch.device("meta"):
        matches = supernet(spec, "meta").matches
    return StitchedEnsemble(1, 3, [spec] * 2, matches, Setting.average_at(position).to_json())


def apart(target, *args) -> tuple[int, int]:
    """In a process of its own on the CPU, because a process never gives back its high-water mark."""
    if "cuda" in args:
        found = queue.SimpleQueue()
        target(found, *args)
        return found.get()
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"  # else glibc keeps what is freed, and the mark says little
    context = multiprocessing.get_context("spawn")
    measured = context.Queue()
    process = context.Process(target=target, args=(measured, *args))
    process.start()
    process.join()  # two numbers fit the queue's buffer
    if process.exitcode:
        raise SystemExit(f"a process left with {process.exitcode} (-9: out of memory)")
    return measured.get()


def row(name: str, estimate: int, measured: tuple[int, int] | None) -> None:
    line = f"| {name} | {estimate / 2**20:.0f} |"
    if measured is not None:
        line += f" {measured[0] / 2**20:.0f} | {estimate / measured[0]:.2f} | {measured[1] / 2**20:.0f} |"
    print(line, flush=True)


def header(columns: str) -> None:
    names = columns.split(", ")
    print(f"\n| {' | '.join(names)} |\n|{'---|' * len(names)}")


def check(args) -> None:
    header("maps and gradients (MiB), estimate, allocated, ratio, process")
    for case, (spec, shape) in CASES.items():
        if args.only and args.only not in case:
            continue
        for mixed in (False, True):
            for way in ("plain", "auto") if mixed else WAYS:
                net, cuts, compared = prepare(spec, shape, way, mixed)
                estimate = step_bytes(net, shape, cuts, compared, None, HALF if mixed else FLOAT)
                measured = apart(measure_training, spec, shape, cuts, compared, args.device, mixed, args.threads)
                row(f"{case}, {'mixed' if mixed else 'float32'}, {way}", estimate, measured)
        x = torch.empty(1, *shape[1:], device="meta")
        with torch.device("meta"):
            count, parent = len(supernet(spec, "meta").positions), build_parent(spec, 1, 3).eval()
        on_cpu = args.device == "cpu"
        row(f"{case}, one parent predicts", forward_bytes(parent, x, on_cpu),
            apart(measure_prediction, spec, shape, None, args.device, args.threads))
        for position in (0, int(0.7 * count)):
            with torch.device("meta"):
                net = deployed(spec, position)
            row(f"{case}, stitched at {position} predicts", forward_bytes(net, x, on_cpu),
                apart(measure_prediction, spec, shape, position, args.device, args.threads))


def positions(spec: dict, shape, every: int) -> None:
    """Maps that prediction needs at each position, relative to one parent's; with weights at some."""
    x = torch.empty(1, *shape[1:], device="meta")
    with torch.device("meta"):
        parent = build_parent(spec, 1, 3).eval()
        alone = forward_bytes(parent, x)
        count = len(supernet(spec, "meta").positions)
        found = {p: forward_bytes(deployed(spec, p), x) / alone for p in range(0, count, every)}
    worst = max(found, key=found.get)
    beyond = [p for p, share in found.items() if share > 1.15]
    print(f"\nprediction, maps at {len(found)} of {count} positions over those of one parent "
          f"({alone / 2**30:.2f} GiB in float32): {min(found.values()):.2f} to {found[worst]:.2f}, "
          f"above 1.15 at {beyond}")
    header("one patch with weights (GiB), float32, mixed")
    row_of_need("one parent", forward_need(parent, x.shape))
    for name, position in (("first layer", 0), ("middle", count // 2), ("worst of all", worst)):
        with torch.device("meta"):
            net = deployed(spec, position)
        row_of_need(f"stitched, {name} ({position})", forward_need(net, x.shape, half_weights=True))


def row_of_need(name: str, need: Need) -> None:
    print(f"| {name} | {need.full / 2**30:.2f} | {need.mixed / 2**30:.2f} |", flush=True)


def resenc_l(args) -> None:
    spec, shape = residual_unet(3, **RESENC_L), (2, 1, 128, 128, 128)
    with torch.device("meta"):
        net, blocks = supernet(spec, "meta"), supernet(spec, "meta", positions="blocks")
    count = len(net.positions)
    print(f"{count} positions, parameters: parents {sum(p.numel() for p in net.parameters()) / 1e6:.0f} M with "
          f"stitches, stitches {sum(p.numel() for p in net.stitch_parameters()) / 1e6:.0f} M")
    header("training (GiB), float32, mixed" + (", measured mixed" if args.device == "cuda" else ""))
    ways = {"plain": (1, None), "12 pieces": (12, None), "40 pieces": (40, None),
            "a piece per stage": (stage_cuts(GraphRunner(net.joined)), None), "auto": ("auto", None),
            **{f"auto, {math.ceil(count / n)} positions per pass": ("auto", math.ceil(count / n)) for n in (4, 16)},
            **{f"{math.ceil(count / n)} positions per pass": (1, math.ceil(count / n)) for n in (4, 16)},
            "auto, half targets": ("auto", None, True)}
    few = f"positions blocks ({len(blocks.positions)})"
    for name, trained, way in (*((name, net, way) for name, way in ways.items()),
                               (few, blocks, ways["plain"]), (f"auto, {few}", blocks, ways["auto"])):
        need = training_need(trained, shape, *way)
        line = f"| {name} | {need.full / 2**30:.1f} | {need.mixed / 2**30:.1f} |"
        if args.device == "cuda":
            line += f" {measured_resenc(spec, shape, way, 'all' if trained is net else 'blocks') / 2**30:.1f} |"
        print(line, flush=True)
    positions(spec, shape, args.every)


def measured_resenc(spec, shape, way, positions: str) -> int:
    """Peak of a whole step on CUDA, weights and AdamW's state included."""
    segments, per_pass, *half = way
    with torch.device("meta"):
        twin = supernet(spec, "meta", positions=positions).to(HALF)
    group = groups(twin.positions, per_pass)[0]
    twin.apply_setting(Setting.average_at(*group))
    compared = set(group) if per_pass else None
    cuts = best_cuts(twin, shape, compared, HALF) if segments == "auto" else segments
    net = supernet(spec, "cuda", positions=positions)
    net.apply_setting(Setting.average_at(*group))
    optimizer = torch.optim.AdamW(net.stitch_parameters(), 1e-4)
    x = torch.randn(*shape, device="cuda")
    for _ in range(2):
        torch.cuda.reset_peak_memory_stats()
        optimizer.zero_grad()
        with torch.autocast("cuda"):
            loss = double_batched_loss(net, x, cuts, compared=compared, keep=HALF if half else None)
        loss.backward()
        optimizer.step()
    del loss
    return torch.cuda.max_memory_allocated()


def stage_cuts(runner: GraphRunner) -> list[int]:
    """Cuts at every first node of a stage of the host's encoder or decoder."""
    seen, cuts = set(), []
    for i, node in enumerate(runner.nodes):
        parts = str(node.target).split(".")
        if node.op == "call_module" and parts[0] == "host" and len(parts) > 3 and parts[1] in ("encoder", "decoder"):
            stage = tuple(parts[1:3]) if parts[2] == "stem" else tuple(parts[1:4])
            if parts[2] in ("stem", "stages", "transpconvs") and stage not in seen:
                seen.add(stage)
                cuts.append(i)
    return cuts[1:]


def main() -> None:
    add = parser(__doc__)
    add.add_argument("-resenc_l", action="store_true")
    add.add_argument("-only", help="part of a case's name")
    add.add_argument("-every", type=int, default=6, help="with -resenc_l: predict at every Nth position")
    args = add.parse_args()
    torch.set_num_threads(args.threads)
    print(machine(args.device))
    (resenc_l if args.resenc_l else check)(args)


if __name__ == "__main__":
    main()
