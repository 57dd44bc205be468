"""A plain network taught by a stitched ensemble inside nnU-Net's own training loop."""

from nnunetv2_stitch.training.trainer import SessionTrainer


class nnUNetTrainerStitchDistilled(SessionTrainer):
    """nnU-Net's training with one more term: the teacher's probabilities of each augmented batch. The teacher is named
    by the plans that nnUNetv2_distill_stitched writes; the result is a model of nnUNetTrainer.

    Mirroring is only along axes that the teacher was mirrored along: others it has never seen mirrored.
    """

    def make_session(self):
        from nnunetv2_stitch.distillation.record import Distillation
        from nnunetv2_stitch.distillation.session import DistillSession
        return DistillSession(self, Distillation)

    def get_tr_and_val_datasets(self):
        return self.session.with_unlabelled(*super().get_tr_and_val_datasets())

    def train_step(self, batch: dict) -> dict:
        return self.session.train_step(batch)

    def on_train_epoch_end(self, train_outputs: list) -> None:
        super().on_train_epoch_end(train_outputs)
        mean = sum(float(o["teacher_term"]) for o in train_outputs) / len(train_outputs)
        self.print_to_log_file("teacher_term", round(mean, 4))
