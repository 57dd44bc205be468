"""Host and partner as a command names them: by dataset, by folder, or by a zip as it was sent."""

from __future__ import annotations

import os

from nnunetv2.paths import nnUNet_results

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.exchange.install import unpack_party
from nnunetv2_stitch.parties.checkpoint import sha256
from nnunetv2_stitch.parties.model_folder import FINAL, ModelFolder, find_pair, read_model_folder, select_model

UNPACKED = "stitch_parties"  # in nnUNet_results; stock nnU-Net does not look there


def find_parties(dataset_a: int | str | None, dataset_b: int | str | None, model_a: str | None = None,
                 model_b: str | None = None, configuration: str | None = None, trainer_a: str | None = None,
                 trainer_b: str | None = None, plans_a: str | None = None, plans_b: str | None = None,
                 checkpoint_name: str = FINAL) -> tuple[ModelFolder, ModelFolder]:
    """Host and partner, each by its dataset or by `model_a`, `model_b`: a model folder or a zip, wherever it lies.

    Raises:
        StitchError: see `find_pair` and `read_party`; or a party is given twice or not at all.
    """
    for name, dataset, model in (("A", dataset_a, model_a), ("B", dataset_b, model_b)):
        if (dataset is None) == (model is None):
            raise StitchError(f"give party {name} either as DATASET_{name} or with -m_{name.lower()}, a model folder "
                              f"or a zip{', not both' if model is not None else ''}")
    if model_a is None and model_b is None:
        return find_pair(dataset_a, dataset_b, configuration, trainer_a, trainer_b, plans_a, plans_b, checkpoint_name)
    given = [None if m is None else read_party(m, checkpoint_name) for m in (model_a, model_b)]
    # The party that is asked for by dataset takes the configuration of the one that is not.
    configuration = configuration or next(m.configuration for m in given if m is not None)
    host = given[0] or select_model(dataset_a, configuration, trainer_a, plans_a, "host", checkpoint_name)
    partner = given[1] or select_model(dataset_b, configuration, trainer_b, plans_b, "partner", checkpoint_name)
    return host, partner


def read_party(path: str, checkpoint_name: str = FINAL) -> ModelFolder:
    """A party's model: a model folder, a folder with one model folder in it, or a zip of either.

    A zip is unpacked once, into `stitch_parties` in nnUNet_results, under its own sha256: names of datasets cannot
    collide there, and stock nnU-Net does not look there.

    Raises:
        StitchError: not there, no model, several, or a zip that is refused.
    """
    path = os.path.abspath(path)
    if os.path.isfile(path):
        if not nnUNet_results.is_set():
            raise StitchError("environment variable nnUNet_results is not set; a zip is unpacked there")
        wanted = "" if checkpoint_name == FINAL else "_" + os.path.splitext(checkpoint_name)[0]
        folder = os.path.join(str(nnUNet_results), UNPACKED, sha256(path)[:16] + wanted)
        found = _model_folders(folder) if os.path.isdir(folder) else []
        path = found[0] if found else unpack_party(path, folder, checkpoint_name=checkpoint_name).path
        checkpoint_name = FINAL  # what it is called where it was unpacked
    elif os.path.isdir(path) and not os.path.isfile(os.path.join(path, "plans.json")):
        found = _model_folders(path)
        if len(found) != 1:
            names = ", ".join(os.path.basename(f) for f in found) or "none"
            raise StitchError(f"{path} is no model folder and does not hold exactly one (found {names}); give the "
                              f"folder TRAINER__PLANS__CONFIGURATION itself")
        path = found[0]
    model = read_model_folder(path, checkpoint_name)
    if not model.folds:
        raise StitchError(f"{path} has no fold with {checkpoint_name}: choose another with -chk")
    return model


def _model_folders(path: str) -> list[str]:
    return [os.path.join(path, n) for n in sorted(os.listdir(path))
            if len(n.split("__")) == 3 and os.path.isfile(os.path.join(path, n, "plans.json"))]
