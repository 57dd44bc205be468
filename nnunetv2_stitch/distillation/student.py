"""The student: plans of one plain network whose data are preprocessed as the teacher expects them."""

from __future__ import annotations

import copy
import os

from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_stitch.distillation.record import HOST
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.parties.model_folder import ModelFolder, channel_names
from nnunetv2_stitch.stitching.plans import STITCHING_KEY


def architecture_of_host(configuration: dict) -> dict:
    """The host's network as plans describe it, from a configuration of stitched plans."""
    return copy.deepcopy(configuration["architecture"]["arch_kwargs"]["parents"][0])


def host_plans(teacher: ModelFolder) -> dict:
    """The host's own plans, of the teacher's configuration alone: the teacher's are made from them."""
    plans = copy.deepcopy(teacher.plans)
    configuration = copy.deepcopy(teacher.configuration_manager.configuration)
    configuration["architecture"] = architecture_of_host(configuration)
    configuration.pop(STITCHING_KEY, None)
    plans["configurations"] = {teacher.configuration: configuration}
    return plans


def student_plans(student: str, dataset: str, configuration: str, teacher: ModelFolder) -> dict:
    """Plans with the student's configuration alone, everything that it inherits filled in.

    Raises:
        StitchError: no such plans or configuration, not one plain network, or its data are not what the teacher reads.
    """
    if student == HOST:
        if configuration != teacher.configuration:
            raise StitchError(f"the teacher is of configuration {teacher.configuration}, so a student of the host's "
                              f"plans is too; leave out -c, or name the plans with -student")
        plans = host_plans(teacher)
    else:
        path = os.path.join(str(nnUNet_preprocessed), dataset, f"{student}.json")
        if not os.path.isfile(path):
            raise StitchError(f"{path} does not exist; -student takes host, or plans that are there: "
                              f"nnUNetv2_plan_experiment makes them")
        plans = read_json(path)
        if configuration not in plans.get("configurations", {}):
            raise StitchError(f"{path} has no configuration {configuration}, only "
                              f"{', '.join(plans.get('configurations', {}))}; choose with -c")
        plans["configurations"] = {configuration: dict(PlansManager(plans).get_configuration(configuration)
                                                       .configuration)}
    manager = PlansManager(plans)
    own = manager.get_configuration(configuration)
    if str(own.network_arch_class_name).startswith("nnunetv2_stitch.") or own.previous_stage_name is not None:
        raise StitchError(f"-student {student}: a student is one plain network, no stitched ensemble and no second "
                          f"stage of a cascade; choose other plans")
    _require_same_input(student, manager, configuration, teacher)
    return plans


def _require_same_input(student: str, manager: PlansManager, configuration: str, teacher: ModelFolder) -> None:
    """The teacher reads the student's batches, so both need the same preprocessing."""
    own, theirs = manager.get_configuration(configuration), teacher.configuration_manager
    compared = {
        "spacing": (own.spacing, theirs.spacing),
        "normalisation": (own.normalization_schemes, theirs.normalization_schemes),
        "use of the nonzero mask": (own.use_mask_for_norm, theirs.use_mask_for_norm),
        "order of axes": (manager.transpose_forward, teacher.plans_manager.transpose_forward),
    }
    for what, (mine, wanted) in compared.items():
        if list(mine) != list(wanted):
            raise StitchError(f"-student {student}: {what} {list(mine)} is not the teacher's {list(wanted)}, so it "
                              f"cannot read the student's images; use -student host, or plans with the same "
                              f"preprocessing")
    mine, wanted = (m.foreground_intensity_properties_per_channel for m in (manager, teacher.plans_manager))
    if "CTNormalization" in own.normalization_schemes and mine != wanted:
        raise StitchError(f"-student {student}: the intensities that CT images are clipped and scaled by are not the "
                          f"teacher's; use -student host")


def require_same_terms(dataset_json: dict, teacher: ModelFolder, dataset: str) -> None:
    """Raises StitchError unless labels and channels of the dataset are the teacher's."""
    for what, mine, wanted in (("labels", dataset_json.get("labels"), teacher.dataset_json["labels"]),
                               ("channels", channel_names(dataset_json), teacher.channel_names)):
        if mine != wanted:
            raise StitchError(f"{what} of {dataset} are {mine}, the teacher's are {wanted}; give -d the dataset of the "
                              f"teacher's host")
