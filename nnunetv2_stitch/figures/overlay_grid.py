"""Segmentations over images, one row per case and one column per model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np

from nnunetv2_stitch.figures.style import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    VERMILLION,
    new_figure,
    own_style,
    write,
)

LABEL_COLOURS = (ORANGE, BLUE, PURPLE, GREEN, VERMILLION)


@own_style
def overlays(panels: Sequence[Mapping[str, Any]], path: str, labels: Mapping[str, int]) -> str:
    """Draw the image alone, then the image under each segmentation.

    Args:
        panels: one dict per case: `title`, `image` `(rows, columns)`, `masks` (name -> integers `(rows, columns)`, the
            same names in every panel, drawn in their order) and, if known, `dice` (name -> number, printed) and
            `aspect` (height of a pixel by its width).
        path: PNG to write.
        labels: name -> value of the foreground labels, in nnU-Net's order.
    """
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Patch

    columns = ["image", *panels[0]["masks"]]
    figure = new_figure(1.75 * len(columns) + 0.4, 1.85 * len(panels) + 0.7)
    grid = figure.subplots(len(panels), len(columns), squeeze=False)
    colours = {value: to_rgb(LABEL_COLOURS[i % len(LABEL_COLOURS)]) for i, value in enumerate(labels.values())}
    for row, panel in zip(grid, panels):
        image = _grey(np.asarray(panel["image"], dtype=float))
        for axes, column in zip(row, columns):
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
            axes.imshow(image if column == "image" else _paint(image, np.asarray(panel["masks"][column]), colours),
                        interpolation="nearest", aspect=panel.get("aspect", 1.0))
            if column in panel.get("dice", {}):
                axes.text(0.98, 0.02, f"{panel['dice'][column]:.3f}", transform=axes.transAxes, ha="right",
                          va="bottom", fontsize=8, color="white")
        row[0].set_ylabel(panel["title"], fontsize=8)
    for axes, column in zip(grid[0], columns):
        axes.set_title(fill(column, 18), fontsize=10 if len(column) <= 18 else 8)
    patches = [Patch(color=colours[value], label=name) for name, value in labels.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False, fontsize=9)
    return write(figure, path)


def _grey(image: np.ndarray) -> np.ndarray:
    """`(rows, columns, 3)` in 0..1; the brightest half percent is clipped, lest one bright spot darken the rest."""
    low, high = np.percentile(image, [0.5, 99.5])
    return np.repeat(np.clip((image - low) / max(high - low, 1e-12), 0, 1)[..., None], 3, axis=-1)


def _paint(image: np.ndarray, mask: np.ndarray, colours: Mapping[int, tuple]) -> np.ndarray:
    """Fill each label faintly and draw its inner rim firmly: both the tissue below and the border stay visible."""
    painted = image.copy()
    for value, colour in colours.items():
        inside = mask == value
        padded = np.pad(inside, 1)
        core = inside & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        for where, weight in ((core, 0.4), (inside & ~core, 0.85)):
            painted[where] = (1 - weight) * image[where] + weight * np.array(colour)
    return painted
