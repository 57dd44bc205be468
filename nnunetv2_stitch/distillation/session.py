"""What the distilling trainer does beyond nnU-Net's, kept out of the trainer class so that it imports fast."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import torch
from nnunetv2.paths import nnUNet_preprocessed

from nnunetv2_stitch.distillation.deployment import deployed, is_deployed
from nnunetv2_stitch.distillation.loss import full_resolution, label_loss, teacher_term
from nnunetv2_stitch.distillation.prepare import host_checkpoint, teacher_folder
from nnunetv2_stitch.distillation.record import Distillation, without_record
from nnunetv2_stitch.distillation.teacher import load_teacher, read_teacher, teach
from nnunetv2_stitch.distillation.unlabelled import JoinedDataset, is_labelled
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import atomically, write_json
from nnunetv2_stitch.parties.checkpoint import load_checkpoint, load_weights, network_weights, sha256

RECORD_FILE = "distillation.json"


class DistillSession:
    """State and steps of one student's training; `trainer` is the nnU-Net trainer that it serves."""

    def __init__(self, trainer):
        if trainer.is_ddp:
            raise StitchError("a student is trained on one GPU: leave out -num_gpus")
        self.trainer = trainer
        self.record = record = Distillation.of(trainer.configuration_manager.configuration,
                                               trainer.plans_manager.plans_name)
        if record.num_epochs is not None:
            trainer.num_epochs = record.num_epochs
        if record.num_iterations_per_epoch is not None:
            trainer.num_iterations_per_epoch = record.num_iterations_per_epoch
            trainer.num_val_iterations_per_epoch = max(1, min(trainer.num_val_iterations_per_epoch,
                                                              record.num_iterations_per_epoch // 5))
        self.teacher: torch.nn.Module | None = None
        self.mirroring_axes: tuple[int, ...] | None = None

    # -- set-up ---------------------------------------------------------------------------------------------------

    @property
    def student(self) -> torch.nn.Module:
        """The student without torch.compile's wrapper, which puts a prefix before every name."""
        return getattr(self.trainer.network, "_orig_mod", self.trainer.network)

    def seed(self) -> None:
        """Seeds python, numpy and torch. Bit-equal repetition needs the CPU and nnUNet_n_proc_DA=0, because nnU-Net's
        augmentation workers race."""
        seed = self.record.seed + self.trainer.current_epoch
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)

    def begin(self) -> None:
        """Before the first step of a training, or of its continuation: the teacher, and where the student starts.

        Raises:
            StitchError: a model is missing, broken, or not the one that the plans name.
        """
        record, entry = self.record, self.record.of_fold(self.trainer.fold)
        model = read_teacher(teacher_folder(record))
        _require(model.checkpoint_path(self.trainer.fold), entry["teacher"])
        teacher, self.mirroring_axes = load_teacher(model, self.trainer.fold)
        if record.weight:
            self.teacher = teacher.to(self.trainer.device)
        if record.start == "host" and self.trainer.current_epoch == 0:
            path = host_checkpoint(record.host, entry["host"])
            _require(path, entry["host_sha256"])
            # Heads for deep supervision included, which nnU-Net's own -pretrained_weights drops.
            load_weights(self.student, network_weights(load_checkpoint(path)), path)
        self.seed()
        self.trainer.print_to_log_file(f"nnunetv2-stitch: seed {record.seed}, start {record.start}, weight of the "
                                       f"teacher {record.weight:g}")

    def write_down(self) -> None:
        """Plans without folders of this machine for whoever gets the model; the record beside the weights."""
        trainer = self.trainer
        write_json(os.path.join(trainer.output_folder_base, "plans.json"), without_record(trainer.plans_manager.plans))
        told = {k: v for k, v in self.record.to_json().items() if k not in ("folds", "host", "unlabelled")}
        told["teacher"] = os.path.basename(self.record.teacher)
        write_json(os.path.join(trainer.output_folder, RECORD_FILE),
                   {**told, "sha256": self.record.of_fold(trainer.fold), "num_epochs": trainer.num_epochs,
                    "num_iterations_per_epoch": trainer.num_iterations_per_epoch})

    def with_unlabelled(self, training, validation):
        """nnU-Net's two datasets, the first with the images without labels, if there are any."""
        if not self.record.unlabelled:
            return training, validation
        folder = os.path.join(str(nnUNet_preprocessed), self.trainer.plans_manager.dataset_name, self.record.unlabelled)
        if not os.path.isdir(folder):
            raise StitchError(f"{folder} does not exist; run nnUNetv2_distill_stitched with -unlabelled first")
        joined = JoinedDataset(training, folder)
        self.trainer.print_to_log_file(f"{self.record.unlabelled_cases} images without labels take part")
        return joined, validation

    # -- steps ----------------------------------------------------------------------------------------------------

    def train_step(self, batch: dict) -> dict:
        """nnU-Net's, with the teacher's answer to the same augmented batch."""
        trainer = self.trainer
        data = batch["data"].to(trainer.device, non_blocking=True)
        target = batch["target"]
        target = [t.to(trainer.device, non_blocking=True) for t in target] if isinstance(target, list) else \
            target.to(trainer.device, non_blocking=True)
        trainer.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda") if trainer.device.type == "cuda" else nullcontext():
            outputs = trainer.network(data)
            loss, term = self.losses(outputs, data, target, [is_labelled(k) for k in batch["keys"]])
        self._optimise(loss)
        return {"loss": loss.detach().cpu().numpy(), "teacher_term": term.detach().cpu().numpy()}

    def losses(self, outputs, data, target, labelled: list[bool]) -> tuple[torch.Tensor, torch.Tensor]:
        """The whole loss, and of it the teacher's term without its weight, which is 0 where there is no teacher."""
        loss = label_loss(self.trainer.loss, outputs, target, labelled)
        if self.teacher is None:
            return loss, torch.zeros(())
        # Only the full resolution: the others are there to help training, and the teacher has no answer of theirs.
        term = teacher_term(full_resolution(outputs), teach(self.teacher, data), self.trainer.label_manager.has_regions)
        return loss + self.record.weight * term, term

    def _optimise(self, loss: torch.Tensor) -> None:
        """As nnU-Net's train_step."""
        trainer, scaler = self.trainer, self.trainer.grad_scaler
        (loss if scaler is None else scaler.scale(loss)).backward()
        if scaler is not None:
            scaler.unscale_(trainer.optimizer)
        torch.nn.utils.clip_grad_norm_(trainer.network.parameters(), 12)
        if scaler is None:
            trainer.optimizer.step()
        else:
            scaler.step(trainer.optimizer)
            scaler.update()

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def save_checkpoint(self, filename: str, stock_save: Callable[[str], None]) -> None:
        """The final one as it is handed on: so where it is there, the training is done."""
        def write(temporary: str) -> None:
            stock_save(temporary)
            if os.path.basename(filename) == "checkpoint_final.pth":
                torch.save(deployed(load_checkpoint(temporary)), temporary)

        if self.trainer.disable_checkpointing:
            stock_save(filename)
        else:
            atomically(filename, write)

    def load_checkpoint(self, path: str, stock_load: Callable[[str], None]) -> None:
        """A training checkpoint as nnU-Net does; a finished one without optimizer, for validation."""
        trainer = self.trainer
        if not trainer.was_initialized:
            trainer.initialize()
        checkpoint = load_checkpoint(path)
        if not is_deployed(checkpoint):
            stock_load(path)
            return
        load_weights(self.student, network_weights(checkpoint), path)
        trainer.current_epoch = checkpoint["current_epoch"]
        trainer.logger.load_checkpoint(checkpoint["logging"])
        trainer._best_ema = checkpoint["_best_ema"]
        trainer.inference_allowed_mirroring_axes = checkpoint["inference_allowed_mirroring_axes"]


def _require(path: str, digest: str) -> None:
    if sha256(path) != digest:
        raise StitchError(f"{path} is not the checkpoint that the plans were made for (sha256 differs); run "
                          f"nnUNetv2_distill_stitched again, with -o_p NAME")
