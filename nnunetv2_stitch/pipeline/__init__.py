"""The main job, end to end: trained nnU-Nets -> one stitched model folder."""

from nnunetv2_stitch.exchange.parents import Partner
from nnunetv2_stitch.pipeline.job import Job, Request
from nnunetv2_stitch.pipeline.prepare import prepare
from nnunetv2_stitch.pipeline.reporting import StitchResult
from nnunetv2_stitch.pipeline.run import train_stitch

__all__ = ["Job", "Partner", "Request", "StitchResult", "prepare", "train_stitch"]
