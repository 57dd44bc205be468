"""Training of one network from a start: the partner adapted to the host's images."""

from nnunetv2_stitch.training.line import adapted_state
from nnunetv2_stitch.training.prepare import AdaptRequest
from nnunetv2_stitch.training.run import AdaptResult, adapt_party

__all__ = ["AdaptRequest", "AdaptResult", "adapt_party", "adapted_state"]
