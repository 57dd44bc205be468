"""What parties exchange of a network: every parameter and floating-point buffer once, by name."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

import numpy as np
import torch
from torch import nn

from nnunetv2_stitch.errors import StitchError


def shared(network: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors themselves. A state_dict has up to four names for one tensor, and counters (integers) have no
    mean."""
    named = chain(network.named_parameters(), network.named_buffers())
    return {name: tensor.data for name, tensor in named if tensor.is_floating_point()}


def shared_arrays(network: nn.Module) -> dict[str, np.ndarray]:
    """Copies of them, on the CPU."""
    return {name: tensor.cpu().numpy().copy() for name, tensor in shared(network).items()}


def set_shared(network: nn.Module, weights: Mapping[str, np.ndarray], whose: str) -> None:
    """Raises StitchError unless names and shapes are those of the network of `whose`."""
    own = shared(network)
    wrong = unlike(own, weights)
    if wrong is not None:
        raise StitchError(f"{whose}: tensor {wrong} of the common weights does not fit this network; all parties must "
                          f"use the host's plans")
    for name, tensor in own.items():
        tensor.copy_(torch.from_numpy(weights[name]))


def unlike(own: Mapping, others: Mapping) -> str | None:
    """The first tensor that is missing on one side or has another shape; None if there is none."""
    wrong = sorted(own.keys() ^ others.keys()) or [n for n in own if tuple(own[n].shape) != tuple(others[n].shape)]
    return wrong[0] if wrong else None
