"""One party's nnU-Net trainer, alive through all rounds in a process of its own.

Flower starts a new process for every message. Building a trainer takes seconds, and its optimizer, its data loaders and
its learning-rate schedule belong to the whole training, so the trainer lives here and Flower's client process asks it.
"""

from __future__ import annotations

import os
import re
import threading
from copy import deepcopy
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from nnunetv2_stitch.baselines.federated import wire
from nnunetv2_stitch.baselines.federated.job import Job, resolved
from nnunetv2_stitch.baselines.federated.sharing import set_shared, shared, shared_arrays
from nnunetv2_stitch.devices import set_up_device
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import atomically, write_json
from nnunetv2_stitch.nnunet_internals import (
    log_missed_epoch,
    log_no_validation,
    training_loss,
    uncompiled,
    without_best_epoch,
    without_progress_plot,
)
from nnunetv2_stitch.randomness import random_state, seed_everything, set_random_state


class LocalTrainer:
    """The stock trainer of party number `index`, driven one round at a time through its own hooks."""

    def __init__(self, job: Job, index: int):
        self.job, self.party = job, job.parties[index]
        device = torch.device(job.device)
        set_up_device(device, threads=job.threads)
        plans, dataset_json = self._plans()
        seed_everything(job.seed)  # the same everywhere, so that all networks start alike
        fold = job.fold if job.fold == "all" else int(job.fold)
        self.trainer = trainer = nnUNetTrainer(plans, job.configuration, fold, dataset_json, device)
        trainer.num_epochs = job.rounds * job.epochs_per_round  # the learning rate falls over all rounds
        if job.iterations is not None:
            trainer.num_iterations_per_epoch = job.iterations
        without_best_epoch(trainer)
        trainer.disable_checkpointing = True  # a local network between two rounds is nobody's model
        without_progress_plot(trainer)
        trainer.initialize()
        self.cases = len(trainer.do_split()[0])
        seed_everything(job.seed + 1 + index)  # the parties draw different patches
        trainer.on_train_start()
        number = self.newest_state(job.start_round) if job.may_miss else job.start_round
        if number:
            self.load_state(number)

    def _plans(self) -> tuple[dict, dict]:
        """The host's plans, with the names under which this party's data lie."""
        plans, _ = self.job.party_files(self.job.parties[0])
        own_plans, dataset_json = self.job.party_files(self.party)
        plans = deepcopy(plans)
        own = resolved(own_plans, self.job.configuration, self.party.plans_name)
        plans["configurations"][self.job.configuration]["data_identifier"] = own["data_identifier"]
        return {**plans, "dataset_name": self.party.dataset, "plans_name": self.party.plans_name,
                "continue_training": False}, dataset_json

    @property
    def network(self) -> nn.Module:
        """Without the wrapper of torch.compile, which puts a prefix before every name."""
        return uncompiled(self.trainer.network)

    def weights(self) -> dict[str, np.ndarray]:
        return shared_arrays(self.network)

    def train(self, number: int, weights: dict[str, np.ndarray]) -> dict[str, Any]:
        """Round `number`, from 1: the local epochs, starting from the common `weights`.

        Returns:
            `losses`: the mean training loss of each epoch; `cases`: the number of training cases.
        """
        due = (number - 1) * self.job.epochs_per_round
        if self.job.may_miss:
            self.miss_epochs(due)
        if self.trainer.current_epoch != due:
            raise StitchError(f"{self.party.name} is asked for round {number} after {self.trainer.current_epoch} "
                              f"epochs; start again with resume=True")
        set_shared(self.network, weights, self.party.name)
        losses = [self.epoch() for _ in range(self.job.epochs_per_round)]
        broken = [n for n, tensor in shared(self.network).items() if not torch.isfinite(tensor).all()]
        if broken or not np.isfinite(losses).all():
            raise StitchError(f"{self.party.name}: the training diverged in round {number} "
                              f"({broken[0] if broken else 'loss'} is not finite)")
        self.save_state(number)
        return {"losses": losses, "cases": self.cases}

    def miss_epochs(self, due: int) -> None:
        """Go on to epoch number `due`, so that the learning rate is that of the round."""
        while self.trainer.current_epoch < due:
            log_missed_epoch(self.trainer)
            self.trainer.current_epoch += 1

    def epoch(self) -> float:
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

    def state_path(self, number: int) -> str:
        return os.path.join(self.job.party_folder(self.party), f"state_{number:05d}.pth")

    def save_state(self, number: int) -> None:
        """What belongs to this party alone and is not in the common weights. The state before is kept: the server may
        not finish this round."""
        trainer = self.trainer
        state = {"optimizer": trainer.optimizer.state_dict(), "random": random_state(),
                 "grad_scaler": trainer.grad_scaler.state_dict() if trainer.grad_scaler is not None else None,
                 "logging": trainer.logger.get_checkpoint(), "epoch": trainer.current_epoch}
        atomically(self.state_path(number), lambda temporary: torch.save(state, temporary))
        for old in self.states()[:-2]:
            os.remove(self.state_path(old))

    def states(self) -> list[int]:
        """The rounds of which there is a state, in order."""
        names = os.listdir(self.job.party_folder(self.party))
        return sorted(int(n[len("state_"):-len(".pth")]) for n in names if re.fullmatch(r"state_\d+\.pth", n))

    def newest_state(self, number: int) -> int:
        """The last round up to `number` that this party took part in; 0 if there is none."""
        return max((n for n in self.states() if n <= number), default=0)

    def load_state(self, number: int) -> None:
        path = self.state_path(number)
        if not os.path.isfile(path):
            raise StitchError(f"{path} does not exist, so {self.party.name} cannot go on after round {number}; start "
                              f"without resume")
        # Written by this training on this machine, so trusted.
        state = torch.load(path, map_location=self.trainer.device, weights_only=False)
        self.trainer.optimizer.load_state_dict(state["optimizer"])
        if self.trainer.grad_scaler is not None and state["grad_scaler"] is not None:
            self.trainer.grad_scaler.load_state_dict(state["grad_scaler"])
        self.trainer.logger.load_checkpoint(state["logging"])
        self.trainer.current_epoch = state["epoch"]
        state["random"]["torch"] = state["random"]["torch"].cpu()  # map_location moves it
        state["random"]["cuda"] = [s.cpu() for s in state["random"]["cuda"]]
        set_random_state(state["random"])

    def write_checkpoint(self, path: str, weights: dict[str, np.ndarray]) -> None:
        """An ordinary nnU-Net checkpoint of the averaged weights, under the name of the stock trainer."""
        set_shared(self.network, weights, self.party.name)
        trainer = self.trainer
        trainer.disable_checkpointing = False
        trainer.current_epoch -= 1  # nnU-Net's save_checkpoint adds it again
        atomically(path, trainer.save_checkpoint)
        trainer.current_epoch += 1
        trainer.disable_checkpointing = True

    def answer(self, question: dict, arrays: dict[str, np.ndarray]) -> tuple[dict, dict[str, np.ndarray] | None]:
        """What a process that connects may ask for: `weights`, `train` or `checkpoint`."""
        if question["do"] == "weights":
            return {}, self.weights()
        if question["do"] == "train":
            return self.train(question["round"], arrays), self.weights()
        self.write_checkpoint(question["path"], arrays)
        return {}, None


def main(job_path: str, index: int) -> None:
    """Build the trainer, say where it can be asked, and answer until killed."""
    job = Job.read(job_path)
    party = job.parties[index]
    trainer = LocalTrainer(job, index)
    listener = wire.listen(job.key)
    write_json(job.ready_file(index), {"address": list(listener.address), "cases": trainer.cases})
    print(f"{party.name} is ready with {trainer.cases} training cases", flush=True)
    while True:
        with wire.accept(listener) as connection:
            question, arrays = wire.receive(connection)
            answered = threading.Event()
            watch = threading.Thread(target=_exit_on_hang_up, args=(connection, answered), daemon=True)
            watch.start()
            answer, result = trainer.answer(question, arrays)
            answered.set()
            wire.send(connection, answer, result)
            watch.join()  # until the other end hangs up; closing under its poll would be an error


def _exit_on_hang_up(connection: Connection, answered: threading.Event) -> None:
    """Flower's client process was killed during a round: end too, which the launcher sees at once. Flower itself
    would notice after a minute."""
    connection.poll(None)
    if not answered.is_set():
        print("ERROR: Flower's client process ended in the middle of a round", flush=True)
        os._exit(1)
