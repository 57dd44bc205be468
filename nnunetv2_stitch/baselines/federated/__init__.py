"""Federated averaging of nnU-Net trainings with Flower: the baseline that exchanges weights in every round."""

from nnunetv2_stitch.baselines.federated.job import FederatedParty, federated_folder
from nnunetv2_stitch.baselines.federated.run import federated_averaging

__all__ = ["FederatedParty", "federated_averaging", "federated_folder"]
