"""Why a row of a comparison cannot be made here: asked for every row before anything is trained."""

from __future__ import annotations

import os

from nnunetv2_stitch.baselines.adapted_rows import AdaptedRows, adapting_obstacle
from nnunetv2_stitch.baselines.datasets import data_of, has_preprocessed, storage
from nnunetv2_stitch.baselines.trained_stitches import retained
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.parties.model_folder import ModelFolder
from nnunetv2_stitch.pipeline.identity import like, unlike_trained
from nnunetv2_stitch.pipeline.job import Job
from nnunetv2_stitch.selection.case_scores import CASES_FILE
from nnunetv2_stitch.training.stock import is_installed

# Rows that need no image of the host's for training.
NO_TRAINING = ("A_alone", "B_alone", "soup")
# Rows in which one network is trained, or averaged, on the terms of both parties.
ONE_PREPROCESSING = ("soup", "finetuned_B_on_A", "guided_merge", "finetuned_A_on_B", "pooled", "federated")
PARTNERS_IMAGES = ("finetuned_A_on_B", "pooled", "federated")
# Whose trainer class trains, or (last line) says how long others train.
TRAINED_AS_A, TRAINED_AS_B = ("finetuned_A_on_B", "pooled"), ("finetuned_B_on_A", "guided_merge")
AS_LONG_AS_A = ("distilled", "untaught", "federated")


def obstacle(key: str, job: Job, epochs: int | None, iterations: int | None) -> str | None:
    """Why the row `key` of `rows.ROWS` cannot be made here, or None. `epochs` and `iterations`: of what is trained
    beside the stitches, None for those of the parents' trainers."""
    host, partner = job.host, job.partner
    if key == "stitched_loo" and len(job.folds) < 2:
        return "it needs at least two folds"
    if key in ONE_PREPROCESSING and not job.reports[0].bridge.is_identity:
        return "the parties' preprocessing differs (nnUNetv2_stitch_info says how)"
    if key == "soup" and host.network_spec != partner.network_spec:
        return "the two networks differ"
    if key == "guided_merge" and job.request.fold_b is not None:
        return "B's fold is fixed, and a merge takes the same fold of both"
    return (_images(key, host, partner) or _trainer(key, host, partner, bool(epochs and iterations))
            or _adapting(key, job, epochs, iterations) or _retention(key, job))


def _images(key: str, host: ModelFolder, partner: ModelFolder) -> str | None:
    if key not in NO_TRAINING and data_of(host) is None:
        return f"the images of {host.dataset_name} are not preprocessed here"
    if key in PARTNERS_IMAGES and partner.dataset_name == host.dataset_name:
        return f"both parties call their dataset {host.dataset_name}, and the one that is here is the host's"
    if key in PARTNERS_IMAGES and not has_preprocessed(partner):
        return f"the images of {partner.dataset_name} are not preprocessed here"
    needed = [*([] if key in (*NO_TRAINING, "finetuned_A_on_B") else [host]),
              *([partner] if key in PARTNERS_IMAGES else [])]
    kinds = {p.dataset_name: storage(p) for p in needed}
    mixed = next((name for name, kind in kinds.items() if kind is None), None)
    if mixed is not None:
        return (f"the preprocessed images of {mixed} are files of several kinds, which nnU-Net does not train on; run "
                f"nnUNetv2_preprocess into an empty folder")
    if key == "pooled" and len(set(kinds.values())) > 1:
        said = " and ".join(f"those of {name} {kind}" for name, kind in kinds.items())
        return (f"different versions of nnU-Net preprocessed the images, {said} files; run nnUNetv2_preprocess with "
                f"the same for both")
    return None


def _trainer(key: str, host: ModelFolder, partner: ModelFolder, budget_given: bool) -> str | None:
    party = host if key in TRAINED_AS_A or key in AS_LONG_AS_A and not budget_given else \
        partner if key in TRAINED_AS_B else None
    if party is None or is_installed(party.trainer):
        return None
    instead = ", or give -baseline_epochs and -baseline_iterations" if key in AS_LONG_AS_A else ""
    return (f"{party.trainer}, the trainer of {party.dataset_name}, is not installed here; add the folder with its "
            f"file to nnUNet_extTrainer{instead}")


def _adapting(key: str, job: Job, epochs: int | None, iterations: int | None) -> str | None:
    if key not in AdaptedRows.KEYS:
        return None
    if key != "A_longer" and len(job.partners) > 1:
        return ("one partner is adapted, and there are several; adapt each with nnUNetv2_adapt_party and put the "
                "models side by side with nnUNetv2_evaluate_stitched")
    return adapting_obstacle(job, epochs, iterations, of_host=key == "A_longer")


def _retention(key: str, job: Job) -> str | None:
    """Only a model that is used as it is can lack what retention goes by."""
    if key != "stitched_retain":
        return None
    if len(job.partners) > 1:
        return "one position is taken, and with several partners there is one for each"
    users = like(job, "double_batched", job.request.plans_name)
    if all(os.path.isfile(os.path.join(users.model_folder, f"fold_{f}", CASES_FILE)) for f in job.folds) \
            or unlike_trained(users) != []:
        return None
    try:
        retained(job, users.model_folder)
    except StitchError as error:
        return str(error)
    return None
