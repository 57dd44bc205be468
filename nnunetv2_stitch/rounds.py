"""The former name of `training.from_merged`, for scripts that were written by it."""

from nnunetv2_stitch.training.from_merged import (
    FromMergedJob,
    FromMergedRequest,
    FromMergedResult,
    prepare,
    train_from_merged,
)

__all__ = ["FromMergedJob", "FromMergedRequest", "FromMergedResult", "prepare", "train_from_merged"]
