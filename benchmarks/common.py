"""What all benchmarks share: parents of a realistic size, medians of interleaved repetitions, the machine."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict

import torch

from nnunetv2_stitch.environment import usable_cores
from nnunetv2_stitch.graph import layer_nodes, match_star, trace
from nnunetv2_stitch.stitching.network import StitchedEnsemble, build_parent
from nnunetv2_stitch.stitching.setting import party_names


def parser(description: str) -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=description)
    result.add_argument("-device", default="cpu", choices=("cpu", "cuda"))
    result.add_argument("-threads", type=int, default=usable_cores())
    result.add_argument("-repeats", type=int, default=9)
    return result


def machine(device: str) -> str:
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    return f"machine: {name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}"


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


def supernet(spec: dict, device: str, parents: int = 2) -> StitchedEnsemble:
    torch.manual_seed(0)
    nodes = layer_nodes(trace(build_parent(spec, 1, 3)), 1)
    matches = [asdict(m) for m in match_star(dict.fromkeys(party_names(parents), nodes))]
    return StitchedEnsemble(1, 3, [spec] * parents, matches, supernet=True).to(device)


def seconds(call: Callable[[], object], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def medians(calls: dict[str, Callable[[], object]], repeats: int, device: str) -> dict[str, float]:
    """Median seconds per call; the calls take turns, so that a slow moment of the machine hits all alike."""
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(seconds(call, device))
    return {name: statistics.median(values) for name, values in times.items()}
