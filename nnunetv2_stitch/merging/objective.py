"""The search's objective on a centre's data: loss and gradient on training batches, score on validation cases."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.merging.atlas import Atlas
from nnunetv2_stitch.merging.losses import SurrogateLoss, TaskLoss
from nnunetv2_stitch.nnunet_internals import sliding_window
from nnunetv2_stitch.parties.checkpoint import load_weights
from nnunetv2_stitch.selection.dice import dice_of_network
from nnunetv2_stitch.training.batchnorm import FIXED_BATCHES, batch_norms, measure_statistics, use_batch_statistics
from nnunetv2_stitch.training.centre import Centre
from nnunetv2_stitch.training.member import Member
from nnunetv2_stitch.training.site import Site

SURROGATES = ("auto", "task", "kl")


class CentreObjective:
    """An `Objective` whose one network, on the device, takes whatever weights are asked about.

    The score is the mean foreground Dice on the centre's validation cases (nnU-Net's sliding window, preprocessed grid,
    no mirroring), or without usable labels minus the surrogate loss on fixed batches of them.

    Args:
        surrogate: `auto` takes the task's loss where the centre's labels are the members', else the KL divergence.

    Raises:
        StitchError: `task` where the labels differ.
    """

    def __init__(self, centre: Centre, atlas: Atlas, surrogate: str = "auto"):
        if surrogate not in SURROGATES:
            raise StitchError(f"surrogate {surrogate!r} is not one of {', '.join(SURROGATES)}")
        require_labels(surrogate, centre.site)
        labelled = centre.site.same_labels
        self.centre, self.atlas, self.labelled = centre, atlas, labelled
        self.network, self.device = centre.network, centre.device
        self.labels = centre.trainer.label_manager
        self.tiler = sliding_window(centre.trainer.configuration_manager, self.labels, self.device, self.network)
        use_batch_statistics(self.network)  # also ends training mode, before anything is computed
        use_kl = surrogate == "kl" or not labelled
        kl = SurrogateLoss(centre, atlas, self.labels.has_regions)
        self.measure = kl if use_kl else TaskLoss(centre)
        self.fixed = [self.measure.prepare(centre.batch()) for _ in range(FIXED_BATCHES)]
        self.validation = None
        if not labelled:
            self.validation = [kl.prepare(centre.validation_batch()) for _ in range(FIXED_BATCHES)]

    @property
    def scored_by(self) -> str:
        return "Dice" if self.labelled else "minus KL to the members' mean"

    def loss_and_gradient(self, c: torch.Tensor) -> tuple[float, torch.Tensor]:
        """Of the next training batch: one forward and one backward pass of the merged network."""
        batch = self.measure.prepare(self.centre.batch())
        self.atlas.write(self.network, c)
        use_batch_statistics(self.network)
        self.network.zero_grad(set_to_none=True)
        loss = self.measure(batch)
        loss.backward()
        gradient = self.atlas.gradient(self.network)
        self.network.zero_grad(set_to_none=True)
        return float(loss.detach()), gradient

    def loss(self, c: torch.Tensor) -> float:
        """Mean over the fixed batches."""
        self.atlas.write(self.network, c)
        return self.present_loss()

    @torch.no_grad()
    def present_loss(self) -> float:
        """Mean over the fixed batches, of the weights that are in the network."""
        use_batch_statistics(self.network)
        return float(np.mean([float(self.measure(b)) for b in self.fixed]))

    def loss_of_weights(self, weights: Mapping[str, torch.Tensor]) -> float:
        """Mean over the fixed batches, of parameters by name."""
        self.atlas.write_weights(self.network, weights)
        return self.present_loss()

    def score(self, c: torch.Tensor) -> float:
        self.atlas.write(self.network, c)
        return self.score_merged()

    def score_weights(self, weights: Mapping[str, torch.Tensor]) -> float:
        """Of parameters by name, with statistics of BatchNorm measured anew."""
        self.atlas.write_weights(self.network, weights)
        return self.score_merged()

    def score_member(self, member: Member) -> float:
        """Of the model as it is, its statistics of BatchNorm included."""
        load_weights(self.network, member.weights, member.path)
        return self.score_present()

    def score_merged(self) -> float:
        self.centre.deep_supervision(False)
        measure_statistics(self.network, [b["data"] for b in self.fixed], self.device)
        return self.score_present()

    def state(self) -> dict[str, torch.Tensor]:
        """All tensors that are in the network, under all names that nnU-Net saves, on the CPU."""
        return {k: v.detach().cpu().clone() for k, v in self.network.state_dict().items()}

    @property
    def has_batch_norm(self) -> bool:
        return bool(batch_norms(self.network))

    @torch.inference_mode()
    def score_present(self) -> float:
        """Of what is in the network as it is, mean over cases per label, then over labels.

        Raises:
            NothingToScore: no validation case holds any foreground label.
        """
        self.network.eval()
        self.centre.deep_supervision(False)
        if self.validation is not None:
            value = -float(np.mean([float(self.measure(b)) for b in self.validation]))
            return value if math.isfinite(value) else -math.inf
        site = self.centre.site
        return dice_of_network(self.tiler, self.labels, self.centre.validation_cases(),
                               f"the validation cases of fold {site.fold} of {site.dataset_name}")


def require_labels(surrogate: str, site: Site) -> None:
    """Raises StitchError if `task` is asked for where the labels differ."""
    if surrogate == "task" and not site.same_labels:
        raise StitchError(f"the labels of {site.dataset_name} are not those of the models, so nnU-Net's own loss "
                          f"cannot be used; give -surrogate kl")
