"""Test sets and predictions of numpy-made segmentations, as files that nnU-Net reads."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

LABELS = {"background": 0, "cortex": 1, "inner": 2}
SPACING = {2: (999.0, 1.0, 0.5), 3: (3.0, 1.0, 1.0)}  # (z, y, x), mm


def write_image(path, voxels, spacing):
    """Axes (z, y, x)."""
    import SimpleITK as sitk
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(spacing[::-1])
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def disc(shape, centre, radius):
    """Inner part 2, rim 1, in every slice."""
    y, x = np.ogrid[:shape[1], :shape[2]]
    distance = np.hypot(y - centre[0], x - centre[1])
    slice_ = np.where(distance < radius * 0.6, 2, np.where(distance < radius, 1, 0))
    return np.broadcast_to(slice_, shape).astype(np.uint8).copy()


@dataclass(frozen=True)
class Files:
    """`root/A`, `root/B`: nnU-Net raw datasets; `root/predictions/MODEL/A` and `B`."""

    root: Path
    cases: int

    def party(self, name):
        return self.root / name

    def model(self, name):
        return self.root / "predictions" / name

    def entries(self):
        from nnunetv2_stitch.evaluation.entries import ModelEntry
        return [ModelEntry(p.name, str(p)) for p in sorted((self.root / "predictions").iterdir())]

    def test_sets(self, *names):
        from nnunetv2_stitch.evaluation.entries import TestSet
        return [TestSet(n, str(self.party(n))) for n in names or ("A", "B")]


def build(root, dim=2, cases=7, models=("host", "joined", "partner")):
    """Discs; each model shifts them by some pixels on either party's cases, so that who is better is known: `host` is
    nearly right on A, `partner` on B, `joined` in between on both."""
    shifts = {"host": (0, 5), "joined": (1, 2), "partner": (4, 0)}
    shape, spacing = (1 if dim == 2 else 6, 40, 48), SPACING[dim]
    rng = np.random.default_rng(dim)
    for number, party in enumerate(("A", "B")):
        folder = root / party
        for index in range(cases):
            centre, radius = (18 + index % 3, 22 + number), 9 + 0.7 * index
            labels, case = disc(shape, centre, radius), f"case_{index}.nii.gz"
            write_image(folder / "labelsTs" / case, labels, spacing)
            image = (100 * labels + rng.normal(0, 20, shape)).astype(np.float32)
            write_image(folder / "imagesTs" / case.replace(".nii", "_0000.nii"), image, spacing)
            for model in models:
                shift = shifts[model][number]
                wrong = disc(shape, (centre[0] + shift, centre[1]), radius + 0.3 * (index % 2))
                write_image(root / "predictions" / model / party / case, wrong, spacing)
        (folder / "dataset.json").write_text(json.dumps({"labels": LABELS, "channel_names": {"0": "MRI"},
                                                         "file_ending": ".nii.gz"}))
    return Files(root, cases)
