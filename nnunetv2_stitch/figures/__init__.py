"""Every figure of the package: each function takes data and a path, writes a PNG and returns the path."""

from nnunetv2_stitch.figures.case_view import Panel, Row, case_view
from nnunetv2_stitch.figures.charts import dice_by_party, dice_over_position
from nnunetv2_stitch.figures.match_lines import matches, matches_by_partner
from nnunetv2_stitch.figures.overlay_grid import overlays

__all__ = ["Panel", "Row", "case_view", "dice_by_party", "dice_over_position", "matches", "matches_by_partner",
           "overlays"]
