"""What the distilling trainer does beyond nnU-Net's, kept out of the trainer class so that it imports fast."""

from __future__ import annotations

import os

import torch
from nnunetv2.paths import nnUNet_preprocessed

from nnunetv2_stitch.distillation.loss import full_resolution, label_loss, teacher_term
from nnunetv2_stitch.distillation.record import HOST, Distillation
from nnunetv2_stitch.distillation.teacher import (
    load_teacher,
    partners_of,
    read_teacher,
    require_teacher,
    taught_by,
    teach,
)
from nnunetv2_stitch.distillation.unlabelled import JoinedDataset, is_labelled
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.nnunet_internals import mixed_precision, on_device, optimise
from nnunetv2_stitch.parties.checkpoint import require_digest
from nnunetv2_stitch.training.session import TrainingSession


class DistillSession(TrainingSession):
    """State and steps of one student's training."""

    def __init__(self, trainer, kind: type[Distillation]):
        super().__init__(trainer, kind)
        self.teacher: torch.nn.Module | None = None

    # -- set-up ---------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Before the first step of a training, or of its continuation: the teacher, and where the student starts.

        Raises:
            StitchError: a model is missing, broken, or not the one that the plans name.
        """
        record, entry = self.record, self.record.of_fold(self.trainer.fold)
        model = read_teacher(record.teacher_folder)
        require_teacher(model, self.trainer.fold, entry, self.again)
        teacher, self.mirroring_axes = load_teacher(model, self.trainer.fold)
        if record.weight:
            self.teacher = teacher.to(self.trainer.device)
        if record.start == HOST and self.trainer.current_epoch == 0:
            path = record.host_checkpoint(self.trainer.fold)
            require_digest(path, entry["host_sha256"], self.again)
            self.start_from(path)
        self.seed()
        self.trainer.print_to_log_file(f"nnunetv2-stitch: seed {record.seed}, start {record.start}, weight of the "
                                       f"teacher {record.weight:g}, taught by {taught_by(entry, record.weight)}")

    def write_down(self) -> None:
        told = {k: v for k, v in self.record.terms().items() if k not in ("host", "unlabelled")}
        entry = dict(self.record.of_fold(self.trainer.fold))
        beyond = {k: entry.pop(k) for k in ("gate", "adapted") if k in entry}
        told.update(teacher=os.path.basename(self.record.teacher), taught_by=taught_by(beyond, self.record.weight),
                    partners=partners_of(read_teacher(self.record.teacher_folder)) if self.record.weight else [],
                    **beyond)
        self.write_record({**told, "sha256": entry})

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
        data, target = (on_device(batch[key], trainer.device) for key in ("data", "target"))
        trainer.optimizer.zero_grad(set_to_none=True)
        with mixed_precision(trainer.device):
            outputs = trainer.network(data)
            loss, term = self.losses(outputs, data, target, [is_labelled(k) for k in batch["keys"]])
        optimise(trainer, loss, trainer.network.parameters)
        return {"loss": loss.detach().cpu().numpy(), "teacher_term": term.detach().cpu().numpy()}

    def losses(self, outputs, data, target, labelled: list[bool]) -> tuple[torch.Tensor, torch.Tensor]:
        """The whole loss, and of it the teacher's term without its weight, which is 0 where there is no teacher."""
        loss = label_loss(self.trainer.loss, outputs, target, labelled)
        if self.teacher is None:
            return loss, torch.zeros(())
        # Only the full resolution: the others are there to help training, and the teacher has no answer of theirs.
        term = teacher_term(full_resolution(outputs), teach(self.teacher, data), self.trainer.label_manager.has_regions)
        return loss + self.record.weight * term, term
