"""Training of stitches by nnU-Net's segmentation loss: a comparator."""

import torch

from nnunetv2_stitch.trainers.nnUNetTrainerStitch import nnUNetTrainerStitch


class nnUNetTrainerStitchTask(nnUNetTrainerStitch):
    """Dice and cross-entropy of the stitched ensemble's answer. Known to push features out of distribution."""

    def batch_loss(self, data: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return self.loss(self.network(data), target)
