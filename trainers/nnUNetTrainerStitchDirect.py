"""Direct matching of stitches in closed form inside nnU-Net's own training loop."""

import torch

from nnunetv2_stitch.trainers.nnUNetTrainerStitch import nnUNetTrainerStitch


class nnUNetTrainerStitchDirect(nnUNetTrainerStitch):
    """One pass over the training data, no gradients: each stitch is a linear regression of its own."""

    def __init__(self, plans: dict, configuration: str, fold: int, dataset_json: dict,
                 device: torch.device = torch.device("cuda")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = 1

    def initialise_stitches(self) -> None:
        """The epoch itself is the pass over the data."""

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.session.start_direct_matching()

    def train_step(self, batch: dict) -> dict:
        return {"loss": self.session.direct_step(batch)}

    def on_train_epoch_end(self, train_outputs: list) -> None:
        unexplained = self.session.finish_direct_matching()
        super().on_train_epoch_end([{"loss": unexplained} for _ in train_outputs])
