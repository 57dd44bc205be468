"""What the training of one network needs in memory, by running a step of it without computing anything."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from nnunetv2_stitch.fitting.live_bytes import LiveBytes, Need
from nnunetv2_stitch.stitching.description import build_parent

FLOAT, HALF = torch.float32, torch.bfloat16  # the latter stands for both halves, their size is the same


def network_of(configuration: Mapping, input_channels: int, num_outputs: int) -> nn.Module:
    """The network of a configuration of plans as nnU-Net trains it, on the meta device."""
    with torch.device("meta"):
        network = build_parent(configuration["architecture"], input_channels, num_outputs)
    network.decoder.deep_supervision = True
    return network


def training_need(configuration: Mapping, input_channels: int, num_outputs: int) -> Need:
    """Bytes at the peak of a step of nnU-Net's trainer with SGD: weights, gradients, momentum and feature maps. What
    libraries take for themselves and the CUDA context come on top."""
    network = network_of(configuration, input_channels, num_outputs)
    shape = (configuration["batch_size"], input_channels, *configuration["patch_size"])
    parameters = sum(p.numel() for p in network.parameters())
    fixed = 2 * FLOAT.itemsize * parameters  # weights and momentum
    # In mixed precision weights and gradients stay as they are, and autocast keeps copies of the weights.
    more = HALF.itemsize * parameters + (FLOAT.itemsize - HALF.itemsize) * parameters
    return Need(fixed + step_bytes(network, shape, FLOAT), fixed + more + step_bytes(network.to(HALF), shape, HALF))


def step_bytes(network: nn.Module, shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Peak of one step's maps and gradients beside weights and batch `(B, C, *spatial)`."""
    x = torch.empty(*shape, device="meta", dtype=dtype)
    with LiveBytes() as live:
        sum(output.float().softmax(1).square().mean() for output in network(x)).backward()
    network.zero_grad()
    return live.peak
