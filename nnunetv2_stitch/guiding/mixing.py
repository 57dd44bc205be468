"""The search's objective: the stitched ensemble's loss on the host's batches as a function of its mixing weights."""

from __future__ import annotations

import torch

from nnunetv2_stitch.devices import half_precision
from nnunetv2_stitch.selection.scoring import SettingScorer
from nnunetv2_stitch.stitching.network import StitchedEnsemble
from nnunetv2_stitch.stitching.setting import SIDES, Setting


def present_weights(network: StitchedEnsemble) -> torch.Tensor:
    """`(2, P)`, float64: what every switch gives to the other parent's translated map under the present setting."""
    def weight(position: int, side: str) -> float:
        switch = network.switch(position, side)
        return {"own": 0.0, "stitched": 1.0}.get(switch.state, switch.mixing_weight)

    return torch.tensor([[weight(p, s) for p in network.positions] for s in SIDES], dtype=torch.float64)


class MixingObjective:
    """A `search.Objective` for the search by gradients. Coefficients `(2, P)`: of every position, the weight of
    the partner's translated map in the host, and of the host's in the partner.

    Args:
        trainer: a stitch trainer, initialised, its stitches fitted, its data loaders made.
        scorer: of the same network.
        cases: preprocessed validation cases, which the score is taken on.
        like: output and combination of the heads.
    """

    def __init__(self, trainer, scorer: SettingScorer, cases, like: Setting):
        self.trainer, self.scorer, self.cases, self.like = trainer, scorer, cases, like
        self.network: StitchedEnsemble = scorer.network
        self.network.requires_grad_(False)

    def setting(self, c: torch.Tensor) -> Setting:
        return Setting.weighted(self.network.positions, c.T.tolist(), self.like.output, self.like.combine)

    def score(self, c: torch.Tensor) -> float:
        """Mean foreground Dice on the validation cases."""
        return self.scorer.score(self.setting(c), self.cases)

    def loss(self, c: torch.Tensor) -> float:
        """Of the next training batch, so unlike the search by CMA-ES wants it not the same function at every call."""
        with torch.no_grad():
            return float(self._loss(c))

    def loss_and_gradient(self, c: torch.Tensor) -> tuple[float, torch.Tensor]:
        """Of the next training batch, by nnU-Net's own loss of the ensemble's answer."""
        c = c.clone().requires_grad_()
        loss = self._loss(c)
        loss.backward()
        return float(loss.detach()), c.grad

    def _loss(self, c: torch.Tensor) -> torch.Tensor:
        device = self.trainer.device
        self.network.apply_setting(self.setting(c.detach()))
        weights = c.to(device, torch.float32)
        for i, side in enumerate(SIDES):
            for j, position in enumerate(self.network.positions):
                switch = self.network.switch(position, side)
                switch.state, switch.mixing_weight = "average", weights[i, j]
        batch = next(self.trainer.dataloader_train)
        with half_precision(device):
            logits = self.network(batch["data"].to(device))
            return self.trainer.loss(logits, batch["target"].to(device))
