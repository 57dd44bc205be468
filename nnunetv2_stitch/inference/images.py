"""Images to predict: their channels are counted in what nnU-Net's readers return, for a file may hold several."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import wraps
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.folders import image_files
from nnunetv2_stitch.nnunet_internals import InputLists


def require_images(folder: str, file_ending: str, channels: int, reader: Any) -> int:
    """Number of cases in an input folder.

    Args:
        reader: nnU-Net's, of the model's plans.

    Raises:
        StitchError: no such folder, no image with nnU-Net's name pattern, or see `require_channels`.
    """
    if not os.path.isdir(folder):
        raise StitchError(f"input folder {folder} does not exist")
    cases = image_files(folder, file_ending)
    if not cases:
        raise StitchError(f"nothing to predict in {folder}: no file named CASE_0000{file_ending}, as nnU-Net expects")
    require_channels(cases, channels, reader)
    return len(cases)


def require_channels(cases: Mapping[str, Sequence[str]], channels: int, reader: Any) -> None:
    """Look into one case of each kind, before hours are spent: those with the same files (`_0000`, `_0001`) are of a
    kind.

    Args:
        cases: case -> its files.
        channels: that the model needs.

    Raises:
        StitchError: a file cannot be read, a case has another number of channels, or a channel's file seems to lack.
    """
    kinds: dict[tuple[str, ...], str] = {}
    for case, files in cases.items():
        numbers = tuple(os.path.basename(f)[len(case) + 1:len(case) + 5] for f in files)
        if numbers not in kinds:
            require_channels_of(case, files, len(read_images(files, reader)), channels)
            like = next((k for k in kinds if len(k) == len(numbers)), None)
            if like:
                raise StitchError(f"case {case} has files {', '.join(numbers)}, case {kinds[like]} {', '.join(like)}; "
                                  f"number the channels of all cases alike")
            kinds[numbers] = case


def read_images(files: Sequence[str], reader: Any) -> np.ndarray:
    """All channels of a case, `(C, z, y, x)`. Raises StitchError if they cannot be read."""
    try:
        return reader.read_images(tuple(files))[0]
    except Exception as error:  # readers raise what their libraries do, or an empty RuntimeError
        said = (str(error).strip().splitlines() or ["see above"])[-1][:200]
        raise StitchError(f"{files[0]} or another file of its case cannot be read ({said}); repair it, or take it out "
                          f"of the folder") from error


def require_channels_of(case: str, files: Sequence[str], found: int, needed: int) -> None:
    """Raises StitchError, naming case and files, if `found` channels are not `needed` ones."""
    if found != needed:
        names = ", ".join(map(os.path.basename, files[:4])) + (", ..." if len(files) > 4 else "")
        has = f"{found} channel{'s' * (found > 1)} ({names})"
        raise StitchError(f"case {case} in {os.path.dirname(files[0])} has {has}, the model needs {needed}; give "
                          f"it all channels of the training images, in their order")


class ImagePredictor(InputLists, nnUNetPredictor):
    """nnU-Net's predictor, which passes over files that are no images of cases, and names the case that cannot be read
    or whose channels are not the model's."""

    @wraps(nnUNetPredictor.__init__)
    def __init__(self, *arguments, **options):
        with redirect_stdout(io.StringIO()):  # on a CPU nnU-Net says that it does what everyone means
            super().__init__(*arguments, **options)

    def files_of_cases(self, folder: str) -> list[list[str]]:
        return list(image_files(folder, self.dataset_json["file_ending"]).values())

    def predict_logits_from_preprocessed_data(self, data):
        needed = determine_num_input_channels(self.plans_manager, self.configuration_manager, self.dataset_json)
        if len(data) != needed:  # a network that reads some channels only would not notice
            raise ValueError(f"an image has {len(data)} channels, the model needs {needed}")
        return super().predict_logits_from_preprocessed_data(data)

    @wraps(nnUNetPredictor.predict_from_files)  # nnU-Net looks up its own parameters' names
    def predict_from_files(self, *arguments, **options):
        with self._naming_the_case():
            return super().predict_from_files(*arguments, **options)

    @wraps(nnUNetPredictor.predict_from_files_sequential)
    def predict_from_files_sequential(self, *arguments, **options):
        with self._naming_the_case():
            return super().predict_from_files_sequential(*arguments, **options)

    @contextmanager
    def _naming_the_case(self) -> Iterator[None]:
        """Where nnU-Net fails at an image, look for the one; only then, for all of them have to be read once more."""
        self.require_input_lists()
        try:
            yield
        except (StitchError, MemoryError, torch.cuda.OutOfMemoryError):
            raise
        except Exception:
            ending, reader = self.dataset_json["file_ending"], self.plans_manager.image_reader_writer_class()
            channels = determine_num_input_channels(self.plans_manager, self.configuration_manager, self.dataset_json)
            for files in self.inputs:
                case = os.path.basename(files[0])[:-len(ending) - 5]
                require_channels_of(case, files, len(read_images(files, reader)), channels)
            raise
