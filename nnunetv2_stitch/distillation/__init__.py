"""A stitched ensemble taught to one ordinary network."""

from nnunetv2_stitch.distillation.prepare import DistillJob, DistillRequest, prepare
from nnunetv2_stitch.distillation.run import DistillResult, distill

__all__ = ["DistillJob", "DistillRequest", "DistillResult", "distill", "prepare"]
