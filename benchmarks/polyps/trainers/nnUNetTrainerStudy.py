"""nnU-Net's training with AdamW and one cycle of the learning rate, which is at its end in minutes instead of days."""

import math

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class OneCycle:
    """Learning rate by epoch: a tenth of the epochs up from a tenth of `rate`, then down to 0 along a cosine."""

    def __init__(self, optimizer: torch.optim.Optimizer, rate: float, epochs: int):
        self.optimizer, self.rate, self.epochs = optimizer, rate, epochs

    def step(self, epoch: int) -> None:
        done, up = epoch / self.epochs, 0.1
        share = 0.1 + 0.9 * done / up if done < up else 0.5 + 0.5 * math.cos(math.pi * (done - up) / (1 - up))
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * share

    def get_last_lr(self) -> list[float]:
        return [group["lr"] for group in self.optimizer.param_groups]


class nnUNetTrainerStudy(nnUNetTrainer):
    """Steps, learning rate, seed and the checkpoint to start from are named by the plans (`study`). The sliding-window
    validation at the end is left out: the study predicts for itself."""

    def __init__(self, plans: dict, configuration: str, fold: int, dataset_json: dict,
                 device: torch.device = torch.device("cuda")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.study = self.configuration_manager.configuration["study"]
        self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 100, 5
        self.num_epochs = self.study["steps"] // self.num_iterations_per_epoch
        self.initial_lr, self.weight_decay = self.study["lr"], 1e-2
        self.save_every = 10

    def initialize(self) -> None:
        from nnunetv2_stitch.randomness import seed_everything
        seed_everything(self.study["seed"])
        super().initialize()
        if self.study.get("start"):
            from nnunetv2_stitch.parties.checkpoint import load_checkpoint, load_weights, network_weights
            load_weights(self.network, network_weights(load_checkpoint(self.study["start"])), self.study["start"])
            self.network.encoder.stages[0][0].convs[0].conv.requires_grad_(False)  # as nnUNetv2_adapt_party: signatures

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.network.parameters(), self.initial_lr, weight_decay=self.weight_decay)
        return optimizer, OneCycle(optimizer, self.initial_lr, self.num_epochs)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        pass
