"""Records that our commands write into plans in nnUNet_preprocessed, so that stock nnUNetv2_train does the same."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from nnunetv2.paths import nnUNet_results

from nnunetv2_stitch.fileio import found_again, recorded

#: keys of a configuration
DISTILLATION, FROM_MERGED, ADAPTATION = RECORDS = ("distillation", "from_merged", "adaptation")


def without_records(plans: Mapping) -> dict:
    """Plans as they go out with a model: of a plain network, without folders of this machine."""
    plans = copy.deepcopy(dict(plans))
    for configuration in plans["configurations"].values():
        for key in RECORDS:
            configuration.pop(key, None)
    return plans


def relative_to_results(path: str) -> str:
    """How a record names a model folder: relative to nnUNet_results where it lies inside, else absolute."""
    return recorded(path, str(nnUNet_results))


def below_results(record: str) -> str:
    """The folder that such a record names."""
    return found_again(record, str(nnUNet_results))
