"""What the trainer from a merged model does beyond nnU-Net's, kept out of the trainer class so that it imports fast."""

from __future__ import annotations

import os

from nnunetv2_stitch.rounds.record import FromMerged
from nnunetv2_stitch.training.session import TrainingSession, require_digest

RECORD_FILE = "from_merged.json"


class FromMergedSession(TrainingSession):
    """A training that begins with all weights of a merged model."""

    what = "a merged model"

    def __init__(self, trainer):
        super().__init__(trainer, FromMerged.of(trainer.configuration_manager.configuration,
                                                trainer.plans_manager.plans_name))
        trainer.initial_lr = self.record.learning_rate

    def begin(self) -> None:
        """Raises StitchError if the merged model is missing, broken, or not the one that the plans name."""
        record, trainer = self.record, self.trainer
        entry = record.of_fold(trainer.fold)
        self.mirroring_axes = tuple(entry["mirroring"])  # what it has never seen mirrored may not be symmetric
        if trainer.current_epoch == 0:
            path = record.checkpoint(trainer.fold)
            require_digest(path, entry["sha256"], "run nnUNetv2_train_party again, with -o_p NAME")
            self.start_from(path)
        self.seed()
        trainer.print_to_log_file(f"nnunetv2-stitch: begun with checkpoint {entry['sha256']}, seed {record.seed}, "
                                  f"learning rate {record.learning_rate:g}")

    def write_down(self) -> None:
        told = {k: v for k, v in self.record.to_json().items() if k != "folds"}
        self.write_record(RECORD_FILE, {**told, "model": os.path.basename(self.record.model),
                                        **self.record.of_fold(self.trainer.fold)})
