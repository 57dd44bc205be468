"""Segmentations over images, one row per case and one column per model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nnunetv2_stitch.figures.case_view import Panel, Row, case_view


def overlays(panels: Sequence[Mapping[str, Any]], path: str, labels: Mapping[str, int]) -> str:
    """Draw the image alone, then the image under each segmentation; see `case_view`. `panels`: see `overlay_rows`."""
    return case_view(overlay_rows(panels), path, labels)


def overlay_rows(panels: Sequence[Mapping[str, Any]]) -> list[Row]:
    """A row per case: the image alone, then the image under each segmentation.

    Args:
        panels: one dict per case: `title`, `image` `(rows, columns)`, `masks` (name -> integers `(rows, columns)`, the
            same names in every panel, drawn in their order) and, if known, `dice` (name -> number, printed) and
            `aspect` (height of a pixel by its width).
    """
    def row(case: Mapping[str, Any]) -> Row:
        dice = {name: f"{value:.3f}" for name, value in case.get("dice", {}).items()}
        answers = [Panel(name, case["image"], mask, note=dice.get(name, "")) for name, mask in case["masks"].items()]
        return Row(case["title"], [Panel("image", case["image"]), *answers], aspect=case.get("aspect", 1.0))

    return [row(case) for case in panels]
