"""A model whose plans and dataset.json were looked at: what sender and receiver both check before weights are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.exchange.blueprint import blueprint
from nnunetv2_stitch.exchange.clean import clean_dataset_json, clean_plans
from nnunetv2_stitch.exchange.plain import is_name, printable, refused, require_modest
from nnunetv2_stitch.exchange.plans_check import DATASET, PLANS, require_safe_plans, resolved_configurations
from nnunetv2_stitch.exchange.stock_names import without_foreign_planner
from nnunetv2_stitch.exchange.trainer_check import require_network_of_plans
from nnunetv2_stitch.parties.reading import ModelFolder


@dataclass(frozen=True)
class Checked:
    """`model` has cleaned plans and dataset.json; `network` lies on the meta device; `dropped` says what was cleaned
    away."""

    model: ModelFolder
    network: nn.Module
    dropped: tuple[str, ...]


def checked(path: str, dataset_name: str, identifier: str, plans: Any, dataset_json: Any,
            folds: tuple[int | str, ...]) -> Checked:
    """Check the contents of plans.json and dataset.json, clean them, and see that the network can be built.

    Nothing that the files name is called before it is known to be one of nnU-Net's own parts.

    Args:
        path: where the model folder is or will be, for later messages.
        dataset_name: the name of the dataset in the cleaned plans.
        identifier: `TRAINER__PLANS__CONFIGURATION`.

    Raises:
        StitchError: the first thing that is wrong.
    """
    names = identifier.split("__")
    if len(names) != 3 or not all(map(is_name, names)):
        raise StitchError(f"model folder {printable(identifier)} has another name than nnU-Net gives: "
                          f"TRAINER__PLANS__CONFIGURATION")
    trainer, plans_name, configuration = names
    for name, value in ((PLANS, plans), (DATASET, dataset_json)):
        require_modest(value, name)
        if not isinstance(value, dict):
            raise refused(name, "is no JSON object")
    resolved = resolved_configurations(plans)
    require_safe_plans(plans, dataset_json, configuration, resolved)
    kept, dropped_plans = clean_plans(without_foreign_planner(plans), configuration, resolved[configuration],
                                      dataset_name, plans_name)
    kept_dataset, dropped_dataset = clean_dataset_json(dataset_json)
    model = ModelFolder(path, dataset_name, trainer, plans_name, configuration, kept, kept_dataset, folds)
    _require_readable_labels(model)
    network = blueprint(model)
    require_network_of_plans(model, network)
    dropped = [f"{PLANS}: {key}" for key in dropped_plans] + [f"{DATASET}: {key}" for key in dropped_dataset]
    return Checked(model, network, tuple(dropped))


def _require_readable_labels(model: ModelFolder) -> None:
    try:
        fits = model.num_outputs > 0
    except Exception as error:  # nnU-Net's own checks, of many types and tones
        raise refused(DATASET, "has labels that nnU-Net cannot read (background 0, regions with regions_class_order, "
                               "ignore highest)") from error
    if not fits:
        raise refused(DATASET, "has no labels")
