"""What all benchmarks share: parents of a realistic size, medians of interleaved repetitions, the machine."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass

import torch

from nnunetv2_stitch.environment import usable_cores
from nnunetv2_stitch.graph import layer_nodes, match_star, trace
from nnunetv2_stitch.stitching.description import build_parent
from nnunetv2_stitch.stitching.network import StitchedEnsemble
from nnunetv2_stitch.stitching.setting import party_names

CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
WARM_UPS = {"cpu": 1, "cuda": 3}  # cuDNN tries its algorithms in the first passes


@dataclass(frozen=True)
class Size:
    """Stages, first and largest number of channels, edge of the image, batch."""

    stages: int
    width: int
    widest: int
    edge: int
    batch: int


SIZES = {
    "tiny": {2: Size(3, 4, 8, 32, 1), 3: Size(3, 4, 8, 16, 1)},  # to see that a script runs
    "small": {2: Size(6, 16, 128, 128, 2), 3: Size(5, 16, 128, 48, 2)},
    "planned": {2: Size(8, 32, 512, 512, 12), 3: Size(6, 32, 320, 128, 2)},  # as nnU-Net plans for large images
}


def parser(description: str) -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=description)
    result.add_argument("-device", default="cpu", choices=("cpu", "cuda"))
    result.add_argument("-threads", type=int, default=usable_cores())
    result.add_argument("-repeats", type=int, default=9)
    add_clock(result)
    result.add_argument("-size", choices=tuple(SIZES), help="of networks and images; default small on the CPU, planned "
                                                            "(as nnU-Net plans) on CUDA")
    result.add_argument("-precision", choices=("mixed", "fp32"), help="default mixed on CUDA, as nnU-Net; on the CPU "
                                                                      "fp32 (mixed: bfloat16)")
    return result


def add_clock(to: argparse.ArgumentParser) -> None:
    to.add_argument("-clock", choices=tuple(CLOCKS), default="wall",
                    help="processor: time that this process computes, for one thread of a CPU that others use, too")


def start(args: argparse.Namespace) -> None:
    """Fill in what depends on the device, set up torch as nnU-Net does, and print the machine."""
    cuda = args.device == "cuda"
    args.size = args.size or ("planned" if cuda else "small")
    args.precision = args.precision or ("mixed" if cuda else "fp32")
    torch.backends.cudnn.benchmark |= cuda
    torch.set_num_threads(args.threads)
    seconds.clock = CLOCKS[args.clock]
    print(f"{machine(args.device)}, {args.precision}, size {args.size}, {args.clock} time")


def machine(device: str) -> str:
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    return f"machine: {name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}"


def precision(args: argparse.Namespace) -> AbstractContextManager:
    """Mixed precision as nnU-Net uses it."""
    return torch.autocast(args.device) if args.precision == "mixed" else nullcontext()


def plain_unet(dim: int = 2, stages: int = 6, width: int = 16, widest: int = 128) -> dict:
    """A plain U-Net as nnU-Net plans it, with fewer channels."""
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": stages, "features_per_stage": [min(width * 2**i, widest) for i in range(stages)],
            "conv_op": f"torch.nn.modules.conv.Conv{dim}d", "kernel_sizes": [[3] * dim] * stages,
            "strides": [[1] * dim] + [[2] * dim] * (stages - 1), "n_conv_per_stage": [2] * stages,
            "n_conv_per_stage_decoder": [2] * (stages - 1), "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dim}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True}, "dropout_op": None, "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def workload(args: argparse.Namespace, dim: int, batch: int | None = None,
             edge: int | None = None) -> tuple[dict, torch.Tensor]:
    """A parent's network and a batch of images `(B, 1, *spatial)`. `batch` in place of the size's own; `edge` likewise,
    of images of size `small`."""
    size = SIZES[args.size][dim]
    edge = edge if edge and args.size == "small" else size.edge
    torch.manual_seed(0)
    x = torch.randn(batch if batch and args.size != "tiny" else size.batch, 1, *[edge] * dim, device=args.device)
    return plain_unet(dim, size.stages, size.width, size.widest), x


def residual_unet(dim: int, widths: Sequence[int], blocks: Sequence[int]) -> dict:
    """A residual encoder U-Net as nnU-Net's ResEnc planners make it: one convolution per stage of the decoder."""
    spec = plain_unet(dim, len(widths))
    arguments = {k: v for k, v in spec["arch_kwargs"].items() if k != "n_conv_per_stage"}
    return {**spec, "network_class_name": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
            "arch_kwargs": {**arguments, "features_per_stage": list(widths), "n_blocks_per_stage": list(blocks),
                            "n_conv_per_stage_decoder": [1] * (len(widths) - 1)}}


def supernet(spec: dict, device: str, parents: int = 2, positions: str = "all") -> StitchedEnsemble:
    torch.manual_seed(0)
    nodes = layer_nodes(trace(build_parent(spec, 1, 3)), 1)
    matches = [asdict(m) for m in match_star(dict.fromkeys(party_names(parents), nodes), positions)]
    return StitchedEnsemble(1, 3, [spec] * parents, matches, supernet=True).to(device)


def bare_parents(spec: dict, device: str, parents: int = 2) -> list[torch.nn.Module]:
    return [build_parent(spec, 1, 3).to(device).eval() for _ in range(parents)]


def seconds(call: Callable[[], object], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = seconds.clock()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return seconds.clock() - start


seconds.clock = time.perf_counter


def peak_bytes() -> int:
    """Peak resident memory of this process. Not `ru_maxrss`, in which a process inherits its parent's peak."""
    with open("/proc/self/status") as file:
        return 1024 * next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))


def medians(calls: dict[str, Callable[[], object]], repeats: int, device: str) -> dict[str, float]:
    """Median seconds per call; the calls take turns, so that a slow moment of the machine hits all alike."""
    for call in calls.values():
        for _ in range(WARM_UPS[device]):
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(seconds(call, device))
    return {name: statistics.median(values) for name, values in times.items()}


def say_ratio(value: float, what: str) -> None:
    """The one form of a result, which `all_on_device.py` collects."""
    print(f"ratio {value:.3f}: {what}", flush=True)
