"""What the search minimises: nnU-Net's own loss, or where labels do not serve, the distance to the members' mean.

A loss is two steps, because the second needs the merged weights in the one network on the device and the first may need
the members' there, one after the other.
"""

from __future__ import annotations

import torch
from torch import nn

from nnunetv2_stitch.devices import half_precision
from nnunetv2_stitch.merging.atlas import Atlas
from nnunetv2_stitch.nnunet_internals import on_device
from nnunetv2_stitch.training.centre import Centre


class TaskLoss:
    """The loss that nnU-Net's trainer builds (Dice and cross entropy, with deep supervision)."""

    name = "task"

    def __init__(self, centre: Centre):
        self.centre = centre

    def prepare(self, batch: dict) -> dict:
        return batch

    def __call__(self, batch: dict) -> torch.Tensor:
        device = self.centre.device
        data, target = (on_device(batch[key], device) for key in ("data", "target"))
        self.centre.deep_supervision(True)
        with half_precision(device):
            return self.centre.trainer.loss(self.centre.network(data), target)


class SurrogateLoss:
    """KL divergence from the mean of the members' probabilities to the network's, mean over voxels, in nats; for
    region-based training the sum over regions. Needs no labels. The members take turns in the network.

    Args:
        regions: whether outputs are independent (sigmoid).
    """

    name = "kl"

    def __init__(self, centre: Centre, atlas: Atlas, regions: bool):
        self.centre, self.atlas, self.regions = centre, atlas, regions

    @torch.no_grad()
    def prepare(self, batch: dict) -> dict:
        """With the target; overwrites the network's weights with the members'."""
        mean = None
        for i in range(len(self.atlas)):
            self.atlas.write_member(self.centre.network, i)
            logits = self._logits(batch)
            probabilities = torch.sigmoid(logits) if self.regions else torch.softmax(logits, 1)
            mean = probabilities if mean is None else mean + probabilities
        return {**batch, "mean": (mean / len(self.atlas)).cpu()}

    def __call__(self, batch: dict) -> torch.Tensor:
        return divergence(self._logits(batch), batch["mean"].to(self.centre.device), self.regions)

    def _logits(self, batch: dict) -> torch.Tensor:
        self.centre.deep_supervision(False)
        with half_precision(self.centre.device):
            return self.centre.network(batch["data"].to(self.centre.device)).float()


def divergence(logits: torch.Tensor, mean: torch.Tensor, regions: bool) -> torch.Tensor:
    """KL(mean || network), mean over batch and voxels; both `(B, K, *spatial)`."""
    if regions:
        both = torch.stack([mean, 1 - mean], 1)
        logs = torch.stack([nn.functional.logsigmoid(logits), nn.functional.logsigmoid(-logits)], 1)
    else:
        both, logs = mean[:, None], torch.log_softmax(logits, 1)[:, None]
    return nn.functional.kl_div(logs, both, reduction="none").sum((1, 2)).mean()
