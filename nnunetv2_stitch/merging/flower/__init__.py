"""Guided model merging in rounds, with Flower: the centre merges whatever models have come in time.

`strategy.GuidedMerging` needs Flower and is imported from its own module, so that the rest works without.
"""

from nnunetv2_stitch.merging.flower.job import guided_rounds_folder
from nnunetv2_stitch.merging.flower.run import guided_merging_rounds

__all__ = ["guided_merging_rounds", "guided_rounds_folder"]
