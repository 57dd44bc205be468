"""A plain network taught by a stitched ensemble inside nnU-Net's own training loop."""

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class nnUNetTrainerStitchDistilled(nnUNetTrainer):
    """nnU-Net's training with one more term: the teacher's probabilities of each augmented batch. The teacher is named
    by the plans that nnUNetv2_distill_stitched writes; the result is a model of nnUNetTrainer.
    """

    def __init__(self, plans: dict, configuration: str, fold: int, dataset_json: dict,
                 device: torch.device = torch.device("cuda")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        from nnunetv2_stitch.distillation.session import DistillSession
        self.save_every = 10
        self.session = DistillSession(self)

    def initialize(self) -> None:
        self.session.seed()  # a start from scratch is repeatable too
        super().initialize()

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):
        """As nnU-Net's, mirroring only where the teacher was mirrored: others it has never seen mirrored."""
        *others, axes = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        both = tuple(a for a in axes or () if a in (self.session.mirroring_axes or ())) or None
        self.inference_allowed_mirroring_axes = both
        return (*others, both)

    def get_tr_and_val_datasets(self):
        return self.session.with_unlabelled(*super().get_tr_and_val_datasets())

    def on_train_start(self) -> None:
        if not self.was_initialized:
            self.initialize()
        self.session.begin()
        super().on_train_start()
        self.session.write_down()

    def train_step(self, batch: dict) -> dict:
        return self.session.train_step(batch)

    def on_train_epoch_end(self, train_outputs: list) -> None:
        super().on_train_epoch_end(train_outputs)
        mean = sum(float(o["teacher_term"]) for o in train_outputs) / len(train_outputs)
        self.print_to_log_file("teacher_term", round(mean, 4))

    def on_train_end(self) -> None:
        super().on_train_end()
        from nnunetv2_stitch.distillation.deployment import deploy_best
        deploy_best(self.output_folder)

    def save_checkpoint(self, filename: str) -> None:
        self.session.save_checkpoint(filename, super().save_checkpoint)

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        self.session.load_checkpoint(filename_or_checkpoint, super().load_checkpoint)
