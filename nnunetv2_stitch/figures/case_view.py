"""Pictures of cases, a row for each case or slice: the image, alone or under segmentations and maps in percent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill

import numpy as np

from nnunetv2_stitch.figures.style import BLUE, GREEN, ORANGE, PURPLE, VERMILLION, new_figure, own_style, write

LABEL_COLOURS = (ORANGE, BLUE, PURPLE, GREEN, VERMILLION)
WIDTH, PANEL = 11.0, (1.75, 2.6)  # inches: of the figure where panels may be of any size, and of panels at most
WRAP = 18  # letters
OUTLINE = "outline: reference"
MANY = 12  # labels; of more, the legend names those that are drawn


@dataclass(frozen=True)
class Panel:
    """One picture, `(rows, columns)`.

    Attributes:
        title: stands above it, unless the panel above says the same.
        image: grey in any unit, or colours `(rows, columns, 3)`.
        labels: integers, painted over the image.
        heat: 0 to 100 percent, painted over the image; the higher, the less of it is seen.
        note: a few letters in its corner, such as Dice.
    """

    title: str
    image: np.ndarray
    labels: np.ndarray | None = None
    heat: np.ndarray | None = None
    note: str = ""


@dataclass(frozen=True)
class Row:
    """Panels of one case or slice. `reference`: integers `(rows, columns)`, outlined in every panel; `aspect`: height
    of a pixel by its width."""

    title: str
    panels: Sequence[Panel]
    reference: np.ndarray | None = None
    aspect: float = 1.0


@own_style
def case_view(rows: Sequence[Row], path: str, labels: Mapping[str, int], title: str = "") -> str:
    """Draw the rows, one below the other, with the names of labels and the scale of heat below.

    Args:
        rows: at least one, each of at least one panel; a shorter row leaves places empty.
        path: PNG to write.
        labels: name -> value of the foreground labels, in nnU-Net's order.
        title: above the figure.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.patches import Patch

    count = max(len(row.panels) for row in rows)
    side = float(np.clip(WIDTH / count, *PANEL))
    heights = np.array([side * height_of(row) for row in rows])
    has_heat = shows_heat(rows)
    around = 0.8 + 0.1 * len(rows) + 0.35 * bool(title) + 0.45 * has_heat
    figure = new_figure(side * count + 0.4, heights.sum() + around)
    grid = figure.subplots(len(rows), count, squeeze=False, height_ratios=heights)
    above = [""] * count
    for line, row in zip(grid, rows):
        for axes in line:
            bare(axes)
        for number, (axes, panel) in enumerate(zip(line, row.panels)):
            draw_panel(axes, panel, row, labels)
            if panel.title != above[number]:
                above[number] = panel.title
                lines = panel.title.split("\n")
                axes.set_title("\n".join(fill(line, WRAP) for line in lines),
                               fontsize=10 if max(map(len, lines)) <= WRAP else 8)
            if panel.note:
                axes.text(0.98, 0.02, panel.note, transform=axes.transAxes, ha="right", va="bottom", fontsize=8,
                          color="white", bbox={"facecolor": "black", "alpha": 0.5, "linewidth": 0, "pad": 1})
        line[0].set_ylabel(row.title, fontsize=8)
    patches = [Patch(color=colour, label=name) for name, colour in legend_of(rows, labels).items()]
    if any(row.reference is not None for row in rows):  # white, with the dark edge that it has on the images
        patches.append(Patch(facecolor="0.2", edgecolor="white", linewidth=1.5, label=OUTLINE, path_effects=_dark_edge(
            2.5, 1.0)))
    if patches:
        figure.legend(handles=patches, loc="outside lower center", ncols=min(6, len(patches)), frameon=False,
                      fontsize=9)
    if has_heat:
        bar = figure.colorbar(ScalarMappable(Normalize(0, 100), heat_colours()), ax=grid, location="bottom", shrink=0.3,
                              aspect=30, pad=0.02)
        bar.set_label("percent", fontsize=8)
        bar.ax.tick_params(labelsize=8)
    if title:
        figure.suptitle(title, fontsize=10)
    return write(figure, path)


def bare(axes) -> None:
    """Without ticks and lines around."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def draw_panel(axes, panel: Panel, row: Row, labels: Mapping[str, int]) -> None:
    """Image, labels, heat and the outline of the row's reference. `labels`: see `case_view`."""
    from matplotlib.colors import Normalize
    image = _colours(np.asarray(panel.image, dtype=float))
    if panel.labels is not None:
        image = _paint(image, np.asarray(panel.labels), label_colours(labels))
    if panel.heat is not None:  # over grey, lest colours of the image be taken for heat
        image = np.repeat(image.mean(-1, keepdims=True), 3, axis=-1)
    axes.imshow(image, aspect=row.aspect)
    if panel.heat is not None:
        axes.imshow(panel.heat, aspect=row.aspect, cmap=heat_colours(), norm=Normalize(0, 100))
    if row.reference is not None:
        _outline(axes, np.asarray(row.reference), labels.values())


def height_of(row: Row) -> float:
    """Of a row's panels by their width, within what can be looked at."""
    rows, columns = np.shape(row.panels[0].image)[:2]
    return float(np.clip(rows * row.aspect / columns, 1 / 3, 2))


def shows_heat(rows: Sequence[Row]) -> bool:
    return any(panel.heat is not None for row in rows for panel in row.panels)


def label_colours(labels: Mapping[str, int]) -> dict[int, str]:
    """By value."""
    return {value: LABEL_COLOURS[i % len(LABEL_COLOURS)] for i, value in enumerate(labels.values())}


def legend_of(rows: Sequence[Row], labels: Mapping[str, int]) -> dict[str, str]:
    """Names of the labels and their colours, of many labels those that are drawn."""
    drawn, colours = _drawn(rows) if len(labels) > MANY else set(labels.values()), label_colours(labels)
    return {name: colours[value] for name, value in labels.items() if value in drawn}


def _drawn(rows: Sequence[Row]) -> set[int]:
    """Values of all label maps."""
    maps = [row.reference for row in rows] + [panel.labels for row in rows for panel in row.panels]
    return {int(value) for m in maps if m is not None for value in np.unique(m)}


def _colours(image: np.ndarray) -> np.ndarray:
    """`(rows, columns, 3)` in 0..1. Of grey images the brightest half percent is clipped, lest one bright spot darken
    the rest; colours keep their proportions."""
    low, high = (image.min(), image.max()) if image.ndim == 3 else np.percentile(image, [0.5, 99.5])
    scaled = np.clip((image - low) / max(high - low, 1e-12), 0, 1)
    return scaled if image.ndim == 3 else np.repeat(scaled[..., None], 3, axis=-1)


def _paint(image: np.ndarray, mask: np.ndarray, colours: Mapping[int, str]) -> np.ndarray:
    """Fill each label faintly and draw its inner rim firmly: both the tissue below and the border stay visible."""
    from matplotlib.colors import to_rgb
    painted = image.copy()
    for value, colour in colours.items():
        inside = mask == value
        padded = np.pad(inside, 1)
        core = inside & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        for where, weight in ((core, 0.4), (inside & ~core, 0.85)):
            painted[where] = (1 - weight) * image[where] + weight * np.array(to_rgb(colour))
    return painted


def _outline(axes, mask: np.ndarray, values) -> None:
    """The borders of each label, in the middle between pixels: a line is of one width at any size of the image."""
    padded = np.pad(mask, 1)  # so that what reaches the border of the image is closed
    across, down = np.arange(-1, mask.shape[1] + 1), np.arange(-1, mask.shape[0] + 1)
    for value in values:
        if (mask == value).any():
            axes.contour(across, down, padded == value, levels=[0.5], colors="white", linewidths=0.6).set(
                path_effects=_dark_edge())
    axes.set_xlim(-0.5, mask.shape[1] - 0.5)
    axes.set_ylim(mask.shape[0] - 0.5, -0.5)


def _dark_edge(width: float = 1.2, alpha: float = 0.5) -> list:
    """White lines are seen on white too."""
    from matplotlib.patheffects import withStroke
    return [withStroke(linewidth=width, foreground="black", alpha=alpha)]


def heat_colours():
    """From nothing to a dark red, so that the image is seen where there is little to say."""
    import matplotlib
    from matplotlib.colors import ListedColormap
    colours = matplotlib.colormaps["YlOrRd"](np.linspace(0.1, 1, 256))
    colours[:, 3] = np.linspace(0, 1, 256) ** 0.7 * 0.8
    return ListedColormap(colours)
