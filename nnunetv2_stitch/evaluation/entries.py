"""What is compared: models, or predictions that models made elsewhere, and the parties' test sets."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.folders import files_in, folds_in, image_files
from nnunetv2_stitch.stitching.setting import OUTPUT

IMAGES, LABELS = ("imagesTs", "images"), ("labelsTs", "labels")


def is_mode(text: str) -> bool:
    """Whether a stitched model may answer so: `stitched`, `ensemble`, `host`, `partner`, `partner2`, ..."""
    return text == "stitched" or OUTPUT.fullmatch(text) is not None


@dataclass(frozen=True)
class ModelEntry:
    """One row of a comparison.

    Attributes:
        name: shown everywhere, and the name of the folder that its predictions are kept in.
        folder: a trained nnU-Net model folder, which is predicted with; or predictions made elsewhere: a sub-folder
            per test set, or the segmentations themselves where there is one test set.
        mode: how a stitched model answers (`is_mode`); None for `stitched`, and for models that are not stitched.
        note: what this model needs that the others do not; shown as a mark with a legend.
        predictions: test set -> folder of segmentations, in place of `folder`.
    """

    name: str
    folder: str = ""
    mode: str | None = None
    note: str = ""
    predictions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self):
        _require_name(self.name, "model")
        if bool(self.folder) == bool(self.predictions):
            raise StitchError(f"model {self.name} needs either a folder or predictions by test set")
        if self.mode is not None and not is_mode(self.mode):
            raise StitchError(f"mode {self.mode!r} of model {self.name} is not stitched, ensemble, host or partner")

    @classmethod
    def parse(cls, text: str) -> ModelEntry:
        """From `NAME=FOLDER` or `NAME=FOLDER@mode`, as the command takes it."""
        name, folder = split(text, "a model")
        path, at, mode = folder.rpartition("@")
        return cls(name, path, mode) if at and is_mode(mode) else cls(name, folder)

    def moved(self, path: Callable[[str], str]) -> ModelEntry:
        """With `path` applied to every folder."""
        return replace(self, folder=self.folder and path(self.folder),
                       predictions={k: path(v) for k, v in self.predictions.items()})

    def prediction_folder(self, party: str, only_party: bool) -> str:
        """Where the segmentations of a test set are, for predictions made elsewhere.

        Raises:
            StitchError: nowhere.
        """
        if self.predictions:
            found = self.predictions.get(party, "")
            if not os.path.isdir(found):
                raise StitchError(f"model {self.name} has no predictions of {party}"
                                  + (f": {found} does not exist" if found else "; give a folder for it"))
            return found
        inside = os.path.join(self.folder, party)
        if os.path.isdir(inside):
            return inside
        if only_party:
            return self.folder
        raise StitchError(f"model {self.name}: {self.folder} is no trained model folder (plans.json, dataset.json, "
                          f"fold_*), and has no folder {party} with predictions; give either of them")


@dataclass(frozen=True)
class TestSet:
    """The test cases of one party: a nnU-Net raw dataset (`imagesTs`, `labelsTs`), a folder with `images` and
    `labels`, or one with `labels` or segmentations alone, which serves where nothing is left to predict. `unseen`: of a
    hospital that is no party, so none of the models was made with anything of it."""

    __test__ = False  # for pytest, which takes classes of this name for tests

    name: str
    folder: str
    unseen: bool = False

    def __post_init__(self):
        _require_name(self.name, "dataset")

    @classmethod
    def parse(cls, text: str, unseen: bool = False) -> TestSet:
        """From `NAME=DIR`, as the command takes it."""
        return cls(*split(text, "a dataset"), unseen)

    def moved(self, path: Callable[[str], str]) -> TestSet:
        return replace(self, folder=path(self.folder))

    def require_folder(self) -> None:
        """Raises StitchError if the test set's folder does not exist."""
        if not os.path.isdir(self.folder):
            raise StitchError(f"dataset {self.name}: {self.folder} does not exist; give a folder with imagesTs and "
                              f"labelsTs, or with images and labels")

    @property
    def labels_folder(self) -> str:
        """Raises StitchError if the test set's folder does not exist."""
        self.require_folder()
        return self._inside(LABELS) or self.folder

    @property
    def images_folder(self) -> str | None:
        return self._inside(IMAGES)

    @property
    def dataset_json(self) -> str | None:
        """Path of the test set's own dataset.json, if it has one."""
        path = os.path.join(self.folder, "dataset.json")
        return path if os.path.isfile(path) else None

    def cases(self, ending: str) -> dict[str, str]:
        """Case -> file of the reference segmentation, in order of their names.

        Raises:
            StitchError: there is none.
        """
        folder = self.labels_folder
        names = files_in(folder, ending)
        if not names:
            raise StitchError(f"dataset {self.name}: no reference segmentation (*{ending}) in {folder}; the files must "
                              f"be named CASE{ending}")
        return {n[:-len(ending)]: os.path.join(folder, n) for n in names}

    def images_of(self, case: str, ending: str) -> list[str]:
        """Image files of a case, in their order; empty if there are none."""
        return [] if self.images_folder is None else image_files(self.images_folder, ending).get(case, [])

    def _inside(self, names: tuple[str, ...]) -> str | None:
        return next((p for n in names if os.path.isdir(p := os.path.join(self.folder, n))), None)


def is_model_folder(folder: str) -> bool:
    """Whether a folder is a trained model. (nnU-Net writes plans.json and dataset.json beside predictions too.)"""
    return os.path.isdir(folder) and all(os.path.isfile(os.path.join(folder, n)) for n in ("plans.json", "dataset.json")
                                         ) and bool(folds_in(folder))


def require_distinct(names: Iterable[str], what: str) -> None:
    """Raises StitchError if a name is taken twice. Upper and lower case do not tell names apart: they name folders."""
    seen: dict[str, str] = {}
    for name in names:
        if name.lower() in seen:
            raise StitchError(f"{what} {name} is named twice; give every {what} a name of its own")
        seen[name.lower()] = name


def require_unseen(datasets: Sequence[TestSet]) -> None:
    """Raises StitchError if a hospital that is no party is tested on a party's folder, or on one folder twice."""
    seen: dict[str, str] = {}
    for d in sorted(datasets, key=lambda d: d.unseen):
        other = seen.setdefault(os.path.realpath(d.folder), d.name)
        if d.unseen and other != d.name:
            raise StitchError(f"-unseen {d.name}: {d.folder} is the folder of {other} already; a hospital that is no "
                              f"party has cases of its own")


def split(text: str, what: str) -> tuple[str, str]:
    """`NAME=VALUE` -> both. Raises StitchError if it is anything else."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip() or not value.strip():
        raise StitchError(f"'{text}' does not name {what}: write NAME=FOLDER")
    return name.strip(), value.strip()


def _require_name(name: str, what: str) -> None:
    if not name or name != name.strip() or name.startswith(".") or any(c in name for c in "/\\\n\t\0"):
        raise StitchError(f"{name!r} cannot name a {what}: its files are kept under that name, so use no / or \\, no "
                          f"line break, and no dot in front")
