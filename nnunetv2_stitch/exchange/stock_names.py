"""Names in plans that nnU-Net looks up among its own classes and functions, and then calls."""

from __future__ import annotations

import inspect
from functools import lru_cache
from os.path import join
from typing import Any

import nnunetv2
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.preprocessing.normalization.default_normalization_schemes import ImageNormalization
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.exchange.clean import RESAMPLING
from nnunetv2_stitch.exchange.plain import IDENTIFIER, printable

PACKAGES = {
    "image_reader_writer": ("imageio", BaseReaderWriter),
    "label_manager": ("utilities.label_handling", LabelManager),
    "experiment_planner_used": ("experiment_planning.experiment_planners", ExperimentPlanner),
    "preprocessor_name": ("preprocessing.preprocessors", DefaultPreprocessor),
    "normalization_schemes": ("preprocessing.normalization", ImageNormalization),
    **{key: ("preprocessing.resampling", None) for key in RESAMPLING},
}
IN_PLANS = ("image_reader_writer", "label_manager")
READER, PLANNER = "image_reader_writer", "experiment_planner_used"


def require_stock_names(plans: dict, configuration: dict, dataset_json: dict) -> None:
    """Refuse plans that name anything but what the nnU-Net installed here has of that kind.

    nnU-Net takes such a name to be a class and calls it, and finds under it whatever its modules have imported.

    A planner of the sender's own is no reason to refuse: nothing looks it up, and `without_foreign_planner` drops it.

    Raises:
        StitchError: names the key and the value.
    """
    named = [(key, plans[key]) for key in IN_PLANS if key in plans]
    planner = plans.get(PLANNER, "ExperimentPlanner")
    if not (isinstance(planner, str) and IDENTIFIER.fullmatch(planner)):
        raise _refused(PLANNER, planner)
    named += [(key, configuration[key]) for key in ("preprocessor_name", *RESAMPLING) if key in configuration]
    schemes = configuration.get("normalization_schemes")
    if not isinstance(schemes, list):
        raise _refused("normalization_schemes", schemes)
    named += [("normalization_schemes", scheme) for scheme in schemes]
    for key, value in named:
        if not is_stock(key, value):
            raise _refused(key, value)
    reader = dataset_json.get("overwrite_image_reader_writer", "None")
    if reader != "None" and not is_stock(READER, reader):
        raise StitchError(f"dataset.json: overwrite_image_reader_writer '{printable(reader)}' is not one of nnU-Net's "
                          f"own; remove it from dataset.json")


def without_foreign_planner(plans: dict) -> dict:
    """A planner that nnU-Net does not have served the sender only; everything that it planned is in the plans."""
    return plans if is_stock(PLANNER, plans.get(PLANNER)) else {k: v for k, v in plans.items() if k != PLANNER}


def is_stock(key: str, value: Any) -> bool:
    """Whether the installed nnU-Net has something of this name and of the kind that `key` asks for."""
    return isinstance(value, str) and IDENTIFIER.fullmatch(value) is not None and _found(key, value)


@lru_cache(maxsize=1000)
def _found(key: str, name: str) -> bool:
    package, base = PACKAGES[key]
    found = recursive_find_python_class(join(nnunetv2.__path__[0], *package.split(".")), name, f"nnunetv2.{package}")
    if base is None:
        return inspect.isfunction(found) and found.__module__.startswith(f"nnunetv2.{package}.") and "resampl" in name
    return isinstance(found, type) and issubclass(found, base) and found.__module__.startswith("nnunetv2.")


def _refused(key: str, value: Any) -> StitchError:
    return StitchError(f"plans.json: {key} '{printable(value)}' is not one of nnU-Net's own, and only those are "
                       f"allowed in a model that travels; use a model that was planned with stock nnU-Net")
