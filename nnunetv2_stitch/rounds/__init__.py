"""A merged model back at a party: trained on there with all its weights, for the next merge."""

from nnunetv2_stitch.rounds.prepare import FromMergedJob, FromMergedRequest, prepare
from nnunetv2_stitch.rounds.run import FromMergedResult, train_from_merged

__all__ = ["FromMergedJob", "FromMergedRequest", "FromMergedResult", "prepare", "train_from_merged"]
