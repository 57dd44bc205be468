"""Figures that the commands draw on a small world of two parties, into docs/figures: `python docs/make_run_figures.py`.

The world is that of the tests (tests/world.py) with a partner whose images differ less. Every command runs as a user
would type it; some minutes on two free cores. With a folder as argument the world and all runs stay there.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from make_figures import with_palette
from PIL import Image

from nnunetv2_stitch.figures.case_view import LABEL_COLOURS
from nnunetv2_stitch.figures.style import new_figure, own_style

ROOT = Path(__file__).resolve().parents[1]
WORLD = """
import sys, world
from dataclasses import replace
from pathlib import Path
host, partner = world.PARTIES[2]
world.PARTIES[2] = host, replace(partner, intensities=(0., 2.4, 3.), noise=.3)
world.build(Path(sys.argv[1]), 2)
"""
STITCHED = "results/Dataset801_HostBlobs/nnUNetTrainerStitchDirect__nnUNetStitchPlans__2d"
ADAPTED = "results/Dataset801_HostBlobs/nnUNetTrainerAdapted__nnUNetAdaptedPlans__2d"
MERGED = "results/Dataset801_HostBlobs/nnUNetTrainer__nnUNetMergedPlans__2d"
STITCH = "nnUNetv2_train_stitch 801 -m_b B.zip -fit direct"
#: Commands, and what is taken then: figure of a page <- file of the run.
STEPS = [
    ("nnUNetv2_export_party -d 802 -o B.zip -name SiteB", {}),
    (f"{STITCH} -iterations 60", {}),
    (f"nnUNetv2_sweep_stitched -m {STITCHED} -d 802 -party partner -o sweep_B.json", {}),
    (f"{STITCH} -iterations 60 --select -sweeps sweep_B.json", {"pareto.png": f"{STITCHED}/pareto.png"}),
    (f"{STITCH} -iterations 60 --select -rule guided -search_steps 40",
     {"guided_mixing.png": f"{STITCHED}/guided_mixing.png"}),
    ("nnUNetv2_adapt_party 801 -m_b B.zip -epochs 2 -iterations 40 -lr 0.003", {}),
    (f"nnUNetv2_merge_party -m B.zip {ADAPTED} -d 801 -c 2d -f 0 -search_steps 30",
     {"merge.png": f"{MERGED}/fold_0/merge.png"}),
    *((f"nnUNetv2_predict_stitched -i raw/Dataset{p}/imagesTs -o {p}_{mode} -m {STITCHED} -mode {mode} --disable_tta"
       + " --save_disagreement" * (mode == "host"), {})
      for p in ("801_HostBlobs", "802_PartnerBlobs") for mode in ("host", "partner")),
]


def run(work: Path, command: str, env: dict[str, str]) -> None:
    name, *arguments = command.split()
    device = [] if name in ("nnUNetv2_export_party",) else ["-device", "cpu"]
    print(command, flush=True)
    with open(work / "log.txt", "a") as log:
        subprocess.run([str(Path(sys.executable).parent / name), *arguments, *device], cwd=work, check=True, stdout=log,
                       stderr=log, env=env)


def slices(path: Path) -> np.ndarray:
    import SimpleITK as sitk
    return np.squeeze(sitk.GetArrayFromImage(sitk.ReadImage(str(path))))


@own_style
def disagreement(work: Path) -> None:
    """A case of each party: image, both parents, and where they disagree."""
    from matplotlib.colors import ListedColormap
    figure = new_figure(7, 3.8)
    grid = figure.subplots(2, 4)
    labels = ListedColormap(["black", *LABEL_COLOURS[:2]])
    for row, party, whose in zip(grid, ("801_HostBlobs", "802_PartnerBlobs"), ("a case of A's", "a case of B's")):
        row[0].imshow(slices(work / f"raw/Dataset{party}/imagesTs/ts_000_0000.nii.gz"), cmap="gray")
        for axes, mode in zip(row[1:3], ("host", "partner")):
            axes.imshow(slices(work / f"{party}_{mode}/ts_000.nii.gz"), cmap=labels, vmin=0, vmax=2,
                        interpolation="nearest")
        shown = row[3].imshow(slices(work / f"{party}_host/disagreement/ts_000.nii.gz"), cmap="magma", vmin=0, vmax=100)
        row[0].set_ylabel(whose, fontsize=9)
        for axes in row:
            axes.set(xticks=[], yticks=[])
    for axes, title in zip(grid[0], ("image", "A's network", "B's network", "disagreement")):
        axes.set_title(title, fontsize=9)
    figure.colorbar(shown, ax=grid[:, 3], label="percent", shrink=0.8)
    figure.canvas.draw()
    with_palette(Image.fromarray(np.asarray(figure.canvas.buffer_rgba())), "disagreement.png", 128)


if __name__ == "__main__":
    place = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()).resolve()
    sys.path.insert(0, str(ROOT / "tests"))
    import world as worlds
    environment = {**os.environ, **worlds.World(place, 2).env}
    if not (place / "results").is_dir():
        subprocess.run([sys.executable, "-c", WORLD, str(place)], check=True, cwd=ROOT / "tests", env=environment)
    for line, figures in STEPS:
        run(place, line, environment)
        for figure_name, source in figures.items():
            with_palette(Image.open(place / source), figure_name)
    disagreement(place)
