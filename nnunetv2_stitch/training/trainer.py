"""nnU-Net's trainer with a session of ours beside it. Imported by trainer files, so nothing heavy is imported here."""

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class SessionTrainer(nnUNetTrainer):
    """nnU-Net's training, which begins with what the session says and ends in a model of nnUNetTrainer."""

    def __init__(self, plans: dict, configuration: str, fold: int, dataset_json: dict,
                 device: torch.device = torch.device("cuda")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.save_every = 10
        self.session = self.make_session()

    def make_session(self):
        """The `TrainingSession` of this training."""
        raise NotImplementedError

    def initialize(self) -> None:
        self.session.seed()  # a start from scratch is repeatable too
        super().initialize()

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):
        """As nnU-Net's, mirroring only along axes that the session allows."""
        *others, axes = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        both = tuple(a for a in axes or () if a in (self.session.mirroring_axes or ())) or None
        self.inference_allowed_mirroring_axes = both
        return (*others, both)

    def on_train_start(self) -> None:
        if not self.was_initialized:
            self.initialize()
        self.session.begin()
        super().on_train_start()
        self.session.write_down()

    def on_train_end(self) -> None:
        super().on_train_end()
        from nnunetv2_stitch.training.checkpoints import deploy_best
        deploy_best(self.output_folder)

    def save_checkpoint(self, filename: str) -> None:
        self.session.save_checkpoint(filename, super().save_checkpoint)

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        self.session.load_checkpoint(filename_or_checkpoint, super().load_checkpoint)
