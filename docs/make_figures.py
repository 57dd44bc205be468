"""Figures of the how-to pages, from the study of polyps that docs/explanation/results.md tells of, into docs/figures.

    python docs/make_figures.py WORK [WORK ...]

WORK is the folder of benchmarks/polyps/study.py and ways.py, or several such folders that share their jobs. What the
commands drew there is copied with a palette, which is a fraction of the size; two figures are drawn here.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import numpy as np
from PIL import Image

from nnunetv2_stitch.figures.style import BLUE, GREEN, GREY, ORANGE, new_figure, own_style, tidy

DOCS = Path(__file__).resolve().parent
FIGURES = DOCS / "figures"
STITCHED = "seed_1/Dataset951_PolypKvasir/nnUNetTrainerStitchDirect__nnUNetStitchDirect{}Plans__2d"
#: Figure of a page -> the file that a command wrote in the study.
COPIES = {
    "dice_over_position.png": f"{STITCHED.format('')}/dice_over_position.png",
    "gate_shares.png": f"{STITCHED.format('Adapted')}/gate_shares.png",
}
ALPHAS = {0.0: "B alone", 0.25: "adapted, alpha 0.25", 0.5: "adapted, alpha 0.5", 1.0: "adapted, alpha 1"}
SETS = {"own": (BLUE, "own patients"), "partner": (ORANGE, "the partner's patients"),
        "unseen": (GREEN, "unseen hospitals")}
SEEDS = (1, 2, 3)


def with_palette(image: Image.Image, name: str, colours: int = 64) -> None:
    image.convert("RGB").quantize(colours, dither=Image.Dither.NONE).save(FIGURES / name, optimize=True)


def found_in(works: list[Path], name: str) -> Path:
    return next(work / name for work in works if (work / name).exists())


def means(works: list[Path], pair: str, way: str, which: str) -> float:
    """Mean Dice over cases and seeds."""
    told = [json.loads(found_in(works, f"ways_{pair}_{seed}/ways.json").read_text())["dice"] for seed in SEEDS]
    return float(np.mean([dice[way]["dice"][which][0] for dice in told]))


@own_style
def dice_over_alpha(works: list[Path]) -> None:
    """What an adapted partner knows of whose patients, on its way from the partner to the host's images."""
    figure = new_figure(8, 3.6)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, pair, title in zip(panels, ("AB", "BA"), ("a large hospital hosts", "a smaller one hosts")):
        for which, (colour, label) in SETS.items():
            axes.plot(list(ALPHAS), [means(works, pair, way, which) for way in ALPHAS.values()], "o-", color=colour,
                      label=label)
            axes.axhline(means(works, pair, "A alone", which), color=colour, linewidth=1, linestyle="--", alpha=0.7)
        axes.axvline(0.5, color=GREY, linewidth=6, alpha=0.25, zorder=0)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("alpha: 0 is the partner,\n1 the partner trained on with the host's images")
        tidy(axes)
    panels[0].set_ylabel("mean Dice on test cases")
    panels[0].plot([], [], color=GREY, linewidth=1, linestyle="--", label="the host's own model")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False,
                  fontsize=8)
    figure.canvas.draw()
    with_palette(Image.fromarray(np.asarray(figure.canvas.buffer_rgba())), "dice_over_alpha.png")


@own_style
def memory_of_training() -> None:
    """The table of docs/reference/performance.md on two 3d ResEnc-L networks."""
    page = (DOCS / "reference" / "performance.md").read_text()
    table = page.partition("| training (GiB) | float32 | mixed |")[2].partition("\n\n")[0]
    rows = [(name.replace("`", ""), float(mixed)) for name, mixed in
            re.findall(r"^\| (.+?) \| [\d.]+ \| ([\d.]+) \|$", table, re.MULTILINE)]
    figure = new_figure(7, 3.4)
    axes = figure.add_subplot()
    names, sizes = zip(*sorted(rows, key=lambda row: -row[1]))
    bars = axes.barh(names, sizes, color=[GREEN if "auto" in name else GREY for name in names])
    axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.08 * sizes[0])
    axes.axvline(24, color=ORANGE, linewidth=1.2, linestyle="--")
    axes.text(24.3, len(names) - 1, "24 GiB", color=ORANGE, fontsize=8, va="center")
    axes.set_xlabel("GiB at the peak of a training step, mixed precision")
    axes.tick_params(axis="y", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.canvas.draw()
    with_palette(Image.fromarray(np.asarray(figure.canvas.buffer_rgba())), "memory_of_training.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("works", nargs="+", type=Path, metavar="WORK")
    folders = parser.parse_args().works
    for figure_name, source in COPIES.items():
        with_palette(Image.open(found_in(folders, source)), figure_name)
    dice_over_alpha(folders)
    memory_of_training()
