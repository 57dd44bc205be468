"""Running statistics of BatchNorm: those of the members fit no mixture of them, so they are measured anew."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

FIXED_BATCHES = 4  # for statistics of BatchNorm, and whatever else is measured on the same batches of training data


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """InstanceNorm, nnU-Net's default, has no running statistics and is not among them."""
    return [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


def use_batch_statistics(network: nn.Module) -> None:
    """Evaluation mode, but BatchNorm normalises by the batch and leaves its running statistics alone: for losses and
    gradients of weights whose statistics are not measured yet."""
    network.eval()
    for module in batch_norms(network):
        module.train()
        module.momentum = 0.0


@torch.no_grad()
def measure_statistics(network: nn.Module, inputs: Sequence[torch.Tensor], device: torch.device) -> None:
    """Set the running statistics to the mean over `inputs`, `(B, C, *spatial)` each; leaves evaluation mode."""
    network.eval()
    found = batch_norms(network)
    if not found:
        return
    before = [m.momentum for m in found]
    for module in found:
        module.reset_running_stats()
        module.momentum = None  # the mean of all batches
        module.train()
    for x in inputs:
        network(x.to(device))
    for module, momentum in zip(found, before):
        module.momentum = momentum
    network.eval()
