"""Records that our commands write into plans in nnUNet_preprocessed, so that stock nnUNetv2_train does the same."""

from __future__ import annotations

import copy
from collections.abc import Mapping

DISTILLATION, FROM_MERGED = RECORDS = ("distillation", "from_merged")  # keys of a configuration


def without_records(plans: Mapping) -> dict:
    """Plans as they go out with a model: of a plain network, without folders of this machine."""
    plans = copy.deepcopy(dict(plans))
    for configuration in plans["configurations"].values():
        for key in RECORDS:
            configuration.pop(key, None)
    return plans
