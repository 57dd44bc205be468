"""One party's nnU-Net training, one round at a time through the trainer's own hooks."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from nnunetv2_stitch.devices import set_up_cudnn
from nnunetv2_stitch.environment import environment_set
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.federation.sharing import set_shared, shared, shared_arrays
from nnunetv2_stitch.fileio import atomically
from nnunetv2_stitch.folders import as_fold
from nnunetv2_stitch.nnunet_internals import (
    log_missed_epoch,
    log_no_validation,
    training_loss,
    uncompiled,
    without_best_epoch,
    without_progress_plot,
)
from nnunetv2_stitch.randomness import random_state, seed_everything, set_random_state


@dataclass(frozen=True)
class Schedule:
    """What the parties' trainings have in common. `iterations`: training steps per epoch, None for nnU-Net's own;
    `seed`: of the first weights."""

    configuration: str
    fold: int | str
    rounds: int
    epochs_per_round: int = 1
    iterations: int | None = None
    seed: int = 12345


class LocalTrainer:
    """The stock trainer of one party, with its momentum, learning rate and random numbers through all rounds.

    Several may take turns in one process: the process' own random numbers are the same before and after each call.

    Args:
        name: of the party, for messages.
        plans: with the party's own `dataset_name`, `plans_name` and `data_identifier`.
        folder: for the state between rounds, and for what nnU-Net writes.
        patches_seed: of the patches that are drawn.
        workers: for augmentation; None for as many as nnU-Net takes.

    Raises:
        StitchError: nnU-Net cannot serve the data.
    """

    def __init__(self, name: str, plans: Mapping[str, Any], dataset_json: dict, schedule: Schedule, folder: str,
                 device: torch.device, patches_seed: int, workers: int | None = None):
        self.name, self.schedule, self.folder = name, schedule, folder
        os.makedirs(folder, exist_ok=True)
        set_up_cudnn()
        environment = {"nnUNet_results": folder, "nnUNet_wandb_enabled": "0"}
        if workers is not None:
            environment["nnUNet_n_proc_DA"] = str(workers)
        self._random: dict[str, Any] | None = None
        with self._turn(), environment_set(environment):
            seed_everything(schedule.seed)  # the same everywhere, so that all networks start alike
            self.trainer = trainer = nnUNetTrainer({**plans, "continue_training": False}, schedule.configuration,
                                                   as_fold(schedule.fold), dataset_json, device)
            trainer.num_epochs = schedule.rounds * schedule.epochs_per_round  # the rate falls over all rounds
            if schedule.iterations is not None:
                trainer.num_iterations_per_epoch = schedule.iterations
            without_best_epoch(trainer)
            trainer.disable_checkpointing = True  # a local network between two rounds is nobody's model
            without_progress_plot(trainer)
            trainer.initialize()
            self.cases = len(trainer.do_split()[0])
            seed_everything(patches_seed)  # the parties draw different patches
            trainer.on_train_start()

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """This party's random numbers instead of the process', and nothing printed: nnU-Net's log has it all."""
        outside = random_state()
        if self._random is not None:
            set_random_state(self._random)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                yield
        finally:
            self._random = random_state()
            set_random_state(outside)

    @property
    def network(self) -> nn.Module:
        """Without the wrapper of torch.compile, which puts a prefix before every name."""
        return uncompiled(self.trainer.network)

    def weights(self) -> dict[str, np.ndarray]:
        return shared_arrays(self.network)

    def train(self, number: int, weights: Mapping[str, np.ndarray]) -> list[float]:
        """Round `number`, from 1: the local epochs, starting from the common `weights`.

        Returns:
            The mean training loss of each epoch.

        Raises:
            StitchError: the weights do not fit, it is another round's turn, or the training diverged.
        """
        due = (number - 1) * self.schedule.epochs_per_round
        if self.trainer.current_epoch != due:
            raise StitchError(f"{self.name} is asked for round {number} after {self.trainer.current_epoch} epochs; "
                              f"stop, and go on with the training")
        set_shared(self.network, weights, self.name)
        with self._turn():
            losses = [self._epoch() for _ in range(self.schedule.epochs_per_round)]
            broken = [n for n, tensor in shared(self.network).items() if not torch.isfinite(tensor).all()]
            if broken or not np.isfinite(losses).all():
                raise StitchError(f"{self.name}: the training diverged in round {number} "
                                  f"({broken[0] if broken else 'loss'} is not finite)")
            self._save_state(number)
        return losses

    def miss_rounds(self, number: int) -> None:
        """Go on to round `number`, so that the learning rate is that of the round."""
        while self.trainer.current_epoch < (number - 1) * self.schedule.epochs_per_round:
            log_missed_epoch(self.trainer)
            self.trainer.current_epoch += 1

    def _epoch(self) -> float:
        """One epoch as in nnU-Net's run_training, without its validation; the mean training loss."""
        trainer = self.trainer
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()
        trainer.on_train_epoch_end([trainer.train_step(next(trainer.dataloader_train))
                                    for _ in range(trainer.num_iterations_per_epoch)])
        epoch = trainer.current_epoch
        log_no_validation(trainer)
        trainer.on_epoch_end()
        return training_loss(trainer, epoch)

    def _state_path(self, number: int) -> str:
        return os.path.join(self.folder, f"state_{number:05d}.pth")

    def _save_state(self, number: int) -> None:
        """What belongs to this party alone and is not in the common weights. The state before is kept: the server may
        not finish this round."""
        trainer = self.trainer
        state = {"optimizer": trainer.optimizer.state_dict(), "random": random_state(),
                 "grad_scaler": trainer.grad_scaler.state_dict() if trainer.grad_scaler is not None else None,
                 "logging": trainer.logger.get_checkpoint(), "epoch": trainer.current_epoch}
        atomically(self._state_path(number), lambda temporary: torch.save(state, temporary))
        for old in states(self.folder)[:-2]:
            os.remove(self._state_path(old))

    def load_state(self, number: int) -> None:
        """Go on after round `number`; nothing for 0, before the first.

        Raises:
            StitchError: this party has no state of that round.
        """
        if not number:
            return
        path = self._state_path(number)
        if not os.path.isfile(path):
            raise StitchError(f"{path} does not exist, so {self.name} cannot go on after round {number}; delete the "
                              f"fold's folder and start again")
        # Written by this training on this machine, so trusted.
        state = torch.load(path, map_location=self.trainer.device, weights_only=False)
        self.trainer.optimizer.load_state_dict(state["optimizer"])
        if self.trainer.grad_scaler is not None and state["grad_scaler"] is not None:
            self.trainer.grad_scaler.load_state_dict(state["grad_scaler"])
        self.trainer.logger.load_checkpoint(state["logging"])
        self.trainer.current_epoch = state["epoch"]
        self._random = state["random"]
        self._random["torch"] = self._random["torch"].cpu()  # map_location moves it
        self._random["cuda"] = [s.cpu() for s in self._random["cuda"]]

    def write_checkpoint(self, path: str, weights: Mapping[str, np.ndarray]) -> None:
        """An ordinary nnU-Net checkpoint of the common weights, under the name of the stock trainer."""
        set_shared(self.network, weights, self.name)
        trainer = self.trainer
        trainer.disable_checkpointing = False
        trainer.current_epoch -= 1  # nnU-Net's save_checkpoint adds it again
        try:
            with self._turn():
                atomically(path, trainer.save_checkpoint)
        finally:
            trainer.current_epoch += 1
            trainer.disable_checkpointing = True

    def close(self) -> None:
        """End nnU-Net's augmentation processes."""
        with self._turn():
            self.trainer.on_train_end()


def states(folder: str) -> list[int]:
    """The rounds of which a party has a state in its folder, in order."""
    return sorted(int(n[len("state_"):-len(".pth")]) for n in os.listdir(folder)
                  if re.fullmatch(r"state_\d+\.pth", n))


def newest_state(folder: str, number: int) -> int:
    """The last round up to `number` that the party took part in; 0 if there is none."""
    return max((n for n in states(folder) if n <= number), default=0)
