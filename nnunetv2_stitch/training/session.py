"""What a trainer of ours that makes an ordinary model does beyond nnU-Net's, kept out of the trainer classes so that
they import fast."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import torch

from nnunetv2_stitch.devices import set_budget
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import atomically, write_json
from nnunetv2_stitch.locks import plans_locked
from nnunetv2_stitch.nnunet_internals import uncompiled
from nnunetv2_stitch.parties.checkpoint import load_checkpoint, load_weights, network_weights, require_digest
from nnunetv2_stitch.parties.checkpoint_writing import load_training, write_checkpoint
from nnunetv2_stitch.randomness import seed_everything
from nnunetv2_stitch.training.checkpoints import handed_on
from nnunetv2_stitch.training.records import StartRecord, TrainingRecord, without_records


class TrainingSession:
    """State of one training; `trainer` is the nnU-Net trainer that it serves, `kind` the class of its records.

    Raises:
        StitchError: training on several GPUs, or plans without such a record.
    """

    def __init__(self, trainer, kind: type[TrainingRecord]):
        if trainer.is_ddp:
            raise StitchError(f"{kind.command} trains on one GPU: leave out -num_gpus")
        self.trainer = trainer
        self.record = kind.of(trainer.configuration_manager.configuration, trainer.plans_manager.plans_name)
        set_budget(trainer, self.record.num_epochs, self.record.num_iterations_per_epoch)
        #: spatial axes that training may mirror along
        self.mirroring_axes: tuple[int, ...] | None = None

    def begin(self) -> None:
        """Before the first step of a training, or of its continuation."""
        raise NotImplementedError

    def write_down(self) -> None:
        """Once the fold's folder is there."""
        raise NotImplementedError

    @property
    def network(self) -> torch.nn.Module:
        """Without torch.compile's wrapper, which puts a prefix before every name."""
        return uncompiled(self.trainer.network)

    @property
    def again(self) -> str:
        """What to do where files are not those that the plans were made for."""
        return f"run {self.record.command} again, with -o_p NAME"

    def seed(self) -> None:
        """See `seed_everything`."""
        seed_everything(self.record.seed + self.trainer.current_epoch)

    def start_from(self, path: str) -> None:
        """Take all weights of a checkpoint, heads for deep supervision included, which nnU-Net's own
        -pretrained_weights drops."""
        load_weights(self.network, network_weights(load_checkpoint(path)), path)

    def write_record(self, told: Mapping) -> None:
        """Plans without folders of this machine for whoever gets the model; the record beside the weights."""
        trainer = self.trainer
        path = os.path.join(trainer.output_folder_base, "plans.json")
        with plans_locked(path):
            write_json(path, without_records(trainer.plans_manager.plans))
        write_json(os.path.join(trainer.output_folder, self.record.file),
                   {**told, "num_epochs": trainer.num_epochs,
                    "num_iterations_per_epoch": trainer.num_iterations_per_epoch})

    def save_checkpoint(self, filename: str, stock_save: Callable[[str], None]) -> None:
        """The final one as it is handed on: so where it is there, the training is done."""
        def write(temporary: str) -> None:
            stock_save(temporary)
            if os.path.basename(filename) == "checkpoint_final.pth":
                write_checkpoint(temporary, handed_on(load_checkpoint(temporary)))

        if self.trainer.disable_checkpointing:
            stock_save(filename)
        else:
            atomically(filename, write)

    def load_checkpoint(self, path: str, stock_load: Callable[[str], None]) -> None:
        """A training checkpoint as nnU-Net does; a finished one without optimizer, for validation."""
        finished = load_training(self.trainer, path, stock_load)
        if finished is not None:
            load_weights(self.network, network_weights(finished), path)


class StartSession(TrainingSession):
    """A training that begins with all weights of a finished model; its record is a `StartRecord`."""

    def __init__(self, trainer, kind: type[StartRecord]):
        super().__init__(trainer, kind)
        trainer.initial_lr = self.record.learning_rate

    def begin(self) -> None:
        """Raises StitchError if the model is missing, broken, or not the one that the plans name."""
        record, trainer = self.record, self.trainer
        entry = record.of_fold(trainer.fold)
        self.mirroring_axes = tuple(entry["mirroring"])  # what it has never seen mirrored may not be symmetric
        if trainer.current_epoch == 0:
            path = record.checkpoint(trainer.fold)
            require_digest(path, entry["sha256"], self.again)
            self.start_from(path)
        self.seed()
        trainer.print_to_log_file(f"nnunetv2-stitch: begun with checkpoint {entry['sha256']}, seed {record.seed}, "
                                  f"learning rate {record.learning_rate:g}")

    def write_down(self) -> None:
        self.write_record({**self.record.terms(), "model": os.path.basename(self.record.model),
                           **self.record.of_fold(self.trainer.fold)})


