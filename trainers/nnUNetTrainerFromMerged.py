"""Training on from a merged model inside nnU-Net's own training loop."""

from nnunetv2_stitch.training.trainer import SessionTrainer


class nnUNetTrainerFromMerged(SessionTrainer):
    """nnU-Net's training, begun with all weights of a merged model, heads included. The model, the learning rate and
    the length are named by the plans that nnUNetv2_train_party writes; the result is a model of nnUNetTrainer.
    """

    def make_session(self):
        from nnunetv2_stitch.training.from_merged import FromMerged
        from nnunetv2_stitch.training.session import StartSession
        return StartSession(self, FromMerged)
