"""Training on from a partner's model inside nnU-Net's own training loop."""

from nnunetv2_stitch.training.trainer import SessionTrainer


class nnUNetTrainerAdapted(SessionTrainer):
    """nnU-Net's training, begun with all weights of a partner's model in the host's terms. The model, the learning rate
    and the length are named by the plans that nnUNetv2_adapt_party writes; the result is a model of nnUNetTrainer."""

    def make_session(self):
        from nnunetv2_stitch.training.adapt_session import Adaptation, AdaptSession
        return AdaptSession(self, Adaptation)
