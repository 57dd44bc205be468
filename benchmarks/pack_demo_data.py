"""Pack the demo's two parties from nnU-Net raw datasets into the small files that the package ships.

    python benchmarks/pack_demo_data.py FOLDER_WITH_RAW_DATASETS [OUTPUT_FOLDER]

Images become 8-bit integers with one factor per party, labels 8-bit integers. It is kept so that anyone can see how
the shipped files were made; the demo itself never runs it.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import nibabel
import numpy as np

from nnunetv2_stitch.demo.data import PARTIES

DEMO_FOLDER = Path(__file__).resolve().parents[1] / "nnunetv2_stitch" / "demo"


def pack(raw: Path, path: Path) -> None:
    """Write the cases of one raw dataset of one-slice 2d images, all of one geometry, to `path`."""
    arrays: dict[str, np.ndarray] = {}
    images: dict[str, np.ndarray] = {}
    affines, spacings = [], []
    for split in ("Tr", "Ts"):
        files = sorted((raw / f"labels{split}").glob("*.nii.gz"))
        names = [file.name.removesuffix(".nii.gz") for file in files]
        pictures = [nibabel.load(raw / f"images{split}" / f"{name}_0000.nii.gz") for name in names]
        labels = [nibabel.load(file) for file in files]
        affines += [nii.affine for nii in [*pictures, *labels]]
        spacings += [nii.header.get_zooms() for nii in [*pictures, *labels]]
        images[split] = np.stack([np.asarray(nii.dataobj)[..., 0] for nii in pictures])
        arrays[f"labels{split}"] = np.stack([np.asarray(nii.dataobj)[..., 0] for nii in labels]).astype(np.uint8)
        arrays[f"names{split}"] = np.array(names)
    if not all(np.allclose(a, affines[0]) for a in affines) or len(set(spacings)) != 1:
        raise SystemExit(f"{raw}: the cases differ in geometry")
    # One factor for all of a party's cases: a factor per case would remove intensity differences between them.
    scale = max(float(stack.max()) for stack in images.values()) / 255
    for split, stack in images.items():
        arrays[f"images{split}"] = np.round(np.clip(stack, 0, None) / scale).astype(np.uint8)
    np.savez_compressed(path, **arrays, scale=np.float64(scale), affine=affines[0])
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB, {[len(stack) for stack in images.values()]} cases")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="holds " + " and ".join(p.dataset for p in PARTIES.values()))
    parser.add_argument("output", type=Path, nargs="?", default=DEMO_FOLDER)
    args = parser.parse_args()
    os.makedirs(args.output, exist_ok=True)
    for party in PARTIES.values():
        pack(args.folder / party.dataset, args.output / party.file)


if __name__ == "__main__":
    main()
