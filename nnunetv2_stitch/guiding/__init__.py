"""Guided stitching: mixing weights of all switches, of any sign, searched on the host's data."""

from nnunetv2_stitch.guiding.fold import Guided, guide_fold

__all__ = ["Guided", "guide_fold"]
