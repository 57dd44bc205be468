"""Records that our commands write into plans in nnUNet_preprocessed, so that stock nnUNetv2_train does the same."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping

from nnunetv2.paths import nnUNet_results

DISTILLATION, FROM_MERGED = RECORDS = ("distillation", "from_merged")  # keys of a configuration


def without_records(plans: Mapping) -> dict:
    """Plans as they go out with a model: of a plain network, without folders of this machine."""
    plans = copy.deepcopy(dict(plans))
    for configuration in plans["configurations"].values():
        for key in RECORDS:
            configuration.pop(key, None)
    return plans


def relative_to_results(path: str) -> str:
    """How a record names a model folder: relative to nnUNet_results where it lies inside, else absolute."""
    inside = os.path.relpath(path, str(nnUNet_results))
    return os.path.abspath(path) if inside.startswith("..") else inside
