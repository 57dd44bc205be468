"""What guided merging in rounds is to do, checked before any process is started."""

from __future__ import annotations

import math
import os

from nnunetv2_stitch.baselines.federated.job import FederatedParty, Job, federated_folder, resolved
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.merging.flower.centre_search import SearchSettings
from nnunetv2_stitch.merging.groups import GRANULARITIES
from nnunetv2_stitch.merging.objective import SURROGATES
from nnunetv2_stitch.merging.search import SEARCHES, require_cma
from nnunetv2_stitch.merging.site import Site

TRAINER = "nnUNetTrainerGuidedRounds"
SERVER = "nnunetv2_stitch.merging.flower.server_app"


def guided_rounds_folder(centre: FederatedParty, configuration: str) -> str:
    """Where stock nnU-Net finds the result: nnUNet_results/CENTRE/nnUNetTrainerGuidedRounds__PLANS__CONFIG.

    Raises:
        StitchError: nnUNet_results is not set.
    """
    return federated_folder(centre, configuration, TRAINER)


def site_of(job: Job) -> Site:
    """The centre's preprocessed data, which are those of the first party."""
    return own_site(job.host_folder, job.configuration, job.fold, job.parties[0].plans_name)


def own_site(folder: str, configuration: str, fold: int | str, plans_name: str) -> Site:
    """A centre whose own plans describe the common network.

    Args:
        folder: of the dataset in nnUNet_preprocessed.

    Raises:
        StitchError: plans or dataset.json are missing, or the plans do not have the configuration.
    """
    path = os.path.join(folder, f"{plans_name}.json")
    plans, dataset_json = read_json(path), read_json(os.path.join(folder, "dataset.json"))
    dataset = os.path.basename(os.path.abspath(folder))
    plans = {**plans, "dataset_name": dataset, "plans_name": plans_name,
             "configurations": {configuration: resolved(plans, configuration, path)}}
    return Site(folder, dataset, configuration, fold, plans, dataset_json)


def check_search(settings: SearchSettings, deadline: float, quorum: int | None, max_age: int | None) -> None:
    """Raises StitchError if a value cannot be meant."""
    for value, allowed, what in ((settings.granularity, GRANULARITIES, "granularity"),
                                 (settings.search, SEARCHES, "search"),
                                 (settings.surrogate, SURROGATES, "surrogate")):
        if value not in allowed:
            raise StitchError(f"{what} {value!r} is not one of {', '.join(allowed)}")
    if settings.steps < 1 or not settings.rate > 0:
        raise StitchError("steps must be at least 1, and the rate above 0")
    if not 0 < deadline < math.inf:
        raise StitchError(f"deadline is {deadline}; give seconds above 0")
    for name, value, least in (("quorum", quorum, 1), ("max_age", max_age, 0)):
        if value is not None and value < least:
            raise StitchError(f"{name} is {value}; it must be at least {least}, or None")
    if settings.search == "cmaes":
        require_cma()
