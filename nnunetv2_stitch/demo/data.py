"""The images of the demo's two parties, shipped as compressed integers (see ATTRIBUTION.md beside this file)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import atomically, write_json

LABELS = {"background": 0, "cortex": 1, "inner": 2}
FILE_ENDING = ".nii.gz"


@dataclass(frozen=True)
class Party:
    """One of the demo's parties: `key` is A or B, `dataset` nnU-Net's name, `about` what the images are."""

    key: str
    dataset: str
    file: str
    about: str
    reference: str

    @property
    def dataset_id(self) -> int:
        return int(self.dataset[7:10])


PARTIES = {
    "A": Party("A", "Dataset911_BrainS1T1", "brain_s1_t1.npz", "T1 MRI of one head (pycortex S1)",
               "pycortex filestore/db/S1 (BSD-2-Clause): T1 and FreeSurfer surfaces"),
    "B": Party("B", "Dataset913_BrainCOLIN", "brain_colin.npz", "average T1 MRI of another head (Colin27)",
               "Colin27 (ch2 of Debian's mricron-data), McConnell Brain Imaging Centre; labels by SAMSEG"),
}


@dataclass(frozen=True)
class PartyData:
    """Arrays of one party. `images` and `labels`: split (`Tr`, `Ts`) -> `(cases, x, y)` of 8-bit integers; an image's
    intensity is its integer times `scale`. `names`: split -> case names. `affine`: `(4, 4)`, the same for all."""

    images: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    names: dict[str, list[str]]
    scale: float
    affine: np.ndarray


def load_party(key: str) -> PartyData:
    """Read a party's arrays from the package.

    Raises:
        StitchError: no such party.
    """
    if key not in PARTIES:
        raise StitchError(f"the demo has no party {key!r}; its parties are {', '.join(PARTIES)}")
    with np.load(Path(__file__).with_name(PARTIES[key].file), allow_pickle=False) as stored:
        return PartyData(
            images={s: stored[f"images{s}"] for s in ("Tr", "Ts")},
            labels={s: stored[f"labels{s}"] for s in ("Tr", "Ts")},
            names={s: [str(name) for name in stored[f"names{s}"]] for s in ("Tr", "Ts")},
            scale=float(stored["scale"]), affine=stored["affine"],
        )


def write_party(key: str, raw_folder: str, splits: Sequence[str] = ("Tr", "Ts")) -> str:
    """Write a party as an nnU-Net raw dataset, with labels for the test cases too, and return the dataset's name.

    Args:
        key: `A` or `B`.
        raw_folder: nnU-Net's folder of raw datasets.
        splits: which cases; `Ts` for those of a party whose models are only tested.

    Raises:
        StitchError: no such party, or the folder cannot be written to.
    """
    import nibabel

    data, party = load_party(key), PARTIES[key]
    folder = os.path.join(raw_folder, party.dataset)

    def write(array: np.ndarray, path: str) -> None:
        # The third axis of one voxel; the affine carries the spacing (1.5, 1.5, 999).
        atomically(path, lambda temporary: nibabel.save(nibabel.Nifti1Image(array[..., None], data.affine), temporary))

    for split, names in ((split, data.names[split]) for split in splits):
        for name, image, labels in zip(names, data.images[split], data.labels[split]):
            write((image * data.scale).astype(np.float32), os.path.join(folder, f"images{split}",
                                                                       f"{name}_0000{FILE_ENDING}"))
            write(labels, os.path.join(folder, f"labels{split}", name + FILE_ENDING))
    # Last, so that its presence says that the dataset is whole.
    write_json(os.path.join(folder, "dataset.json"), {
        "channel_names": {"0": "image"}, "labels": LABELS, "numTraining": len(data.names["Tr"]),
        "file_ending": FILE_ENDING, "name": party.dataset.split("_", 1)[1], "reference": party.reference,
        "overwrite_image_reader_writer": "NibabelIO",
    })
    return party.dataset


def blocked_splits(names: list[str]) -> list[dict[str, list[str]]]:
    """nnU-Net's `splits_final.json` for neighbouring slices: each fold holds out one whole block of them.

    The training cases are blocks of consecutive numbers, apart from one another (test slices and unused ones lie
    between them). nnU-Net's own random split would put a slice into training and its near copy next to it into
    validation, and all validation scores, the choice of the position included, would flatter. Only blocks as long as
    the longest are held out. Fold 0 is the middlemost, where all labels are present.
    """
    blocks: list[list[str]] = []
    previous = None
    for name in sorted(names):
        number = int(name.rsplit("_", 1)[1])
        if previous is None or number != previous + 1:
            blocks.append([])
        blocks[-1].append(name)
        previous = number
    middle = (len(blocks) - 1) / 2
    full = [i for i, block in enumerate(blocks) if len(block) == max(map(len, blocks))]
    return [{"train": [n for i, block in enumerate(blocks) if i != held_out for n in block], "val": blocks[held_out]}
            for held_out in sorted(full, key=lambda i: (abs(i - middle), i))]
