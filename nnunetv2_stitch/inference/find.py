"""Finding the stitched model that a prediction command means."""

from __future__ import annotations

import os

from nnunetv2.paths import nnUNet_results

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.folders import model_folders_in
from nnunetv2_stitch.parties.model_folder import ADAPTED_KEY, BASELINE_KEY, DISTILLED_KEY
from nnunetv2_stitch.stitching.plans import is_stitched

#: what a plain network is, by what its plans say of it
KINDS = {ADAPTED_KEY: "an adapted partner", DISTILLED_KEY: "the student of a stitched model"}


def stitched_configuration(model_folder: str,
                           instead: str = "nnUNetv2_predict_from_modelfolder predicts with this one") -> str:
    """The configuration of a stitched model folder, from the folder's name or else its plans.

    Args:
        instead: what to do with a plain network, for the message.

    Raises:
        StitchError: no model folder, or not a stitched one; then what it is.
    """
    if os.path.isfile(model_folder):
        raise StitchError(f"{model_folder} is a file; give a model folder. nnU-Net's own "
                          f"nnUNetv2_install_pretrained_model_from_zip makes one of a stitched model's zip")
    if not os.path.isdir(model_folder):
        raise StitchError(f"{model_folder} does not exist; give a model folder, e.g. "
                          f"nnUNet_results/Dataset001_X/nnUNetTrainerStitch__nnUNetStitchPlans__2d")
    plans = read_json(os.path.join(model_folder, "plans.json"))
    configurations = plans.get("configurations", {})
    stitched = [name for name, c in configurations.items() if is_stitched(c)]
    name = os.path.basename(os.path.normpath(model_folder)).split("__")[-1]
    if name in stitched:
        return name
    if len(stitched) != 1:
        what = next((said for key, said in KINDS.items() if plans.get(key)), "a plain network")
        raise StitchError(f"{model_folder} is no stitched model but {what}; give a folder that nnUNetv2_train_stitch "
                          f"made. {instead}")
    return stitched[0]


def find_stitched_model(dataset: str, configuration: str | None = None, trainer: str | None = None,
                        plans: str | None = None) -> str:
    """The folder of the one stitched model of a dataset (id or name) that fits what was given. Left out is what was
    only trained for a comparison, unless `plans` names it.

    Raises:
        StitchError: none, or several; then they are listed with the flags that choose.
    """
    from nnunetv2_stitch.parties.find import dataset_folder
    folder = dataset_folder(dataset, results_folder())
    found, compared = [], []
    for path in model_folders_in(folder):
        parts = os.path.basename(path).split("__")
        wanted = ((trainer, parts[0]), (plans, parts[1]), (configuration, parts[2]))
        if all(w is None or w == p for w, p in wanted):
            contents = read_json(os.path.join(path, "plans.json"))
            if is_stitched(contents.get("configurations", {}).get(parts[2], {})):
                (found if plans is not None or not contents.get(BASELINE_KEY) else compared).append(path)
    if not found and compared:
        names = ", ".join(os.path.basename(f).split("__")[1] for f in compared)
        raise StitchError(f"{folder} has stitched models that were made for a comparison only; train one with "
                          f"nnUNetv2_train_stitch, or name one of these with -p: {names}")
    if not found:
        raise StitchError(f"no stitched model in {folder} fits; train one with nnUNetv2_train_stitch, or check "
                          f"-c, -tr and -p")
    if len(found) > 1:
        names = ", ".join(os.path.basename(f) for f in found)
        raise StitchError(f"several stitched models in {folder}: {names}; choose with -tr, -p and -c")
    return found[0]


def results_folder() -> str:
    if not nnUNet_results.is_set():
        raise StitchError("environment variable nnUNet_results is not set; set it, or give the model folder with -m")
    return str(nnUNet_results)
