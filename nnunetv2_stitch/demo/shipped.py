"""The two parents that the package ships, as they are in real life: A's trained model, and the zip that B has sent."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from nnunetv2_stitch.demo.commands import PARTNER_ZIP
from nnunetv2_stitch.demo.data import PARTIES
from nnunetv2_stitch.demo.settings import CONFIGURATION, FOLD, PLANS
from nnunetv2_stitch.fileio import atomically

MODELS = Path(__file__).with_name("models")
CARD = MODELS / "CARD.md"
VALIDATION = MODELS / "A_summary.json"  # of the model in A.zip, which nnU-Net's own training ends with


def shipped_zip(key: str) -> Path:
    """The zip of a party's model in the package."""
    return MODELS / f"{key}.zip"


def install_host(results: str, preprocessed: str) -> None:
    """A as it is after its own training: its model in nnUNet_results, the plans of its training and its images, which
    must be in nnUNet_raw, preprocessed by them. What is there already is kept or made again.

    Args:
        results, preprocessed: nnU-Net's folders, which are set.
    """
    from nnunetv2.configuration import default_num_processes
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprint_dataset, preprocess_dataset

    from nnunetv2_stitch.demo.data import blocked_splits, load_party
    from nnunetv2_stitch.exchange.card import CARD as PARTY_CARD
    from nnunetv2_stitch.exchange.install import unpack_party
    from nnunetv2_stitch.exchange.manifest import PARTY
    from nnunetv2_stitch.fileio import read_json, write_json
    from nnunetv2_stitch.folders import model_folders_in

    host = PARTIES["A"]
    folder, data = (os.path.join(root, host.dataset) for root in (results, preprocessed))
    if not (os.path.isdir(folder) and model_folders_in(folder)):
        unpack_party(str(shipped_zip("A")), folder)
    model, = model_folders_in(folder)
    for name in (PARTY, PARTY_CARD):  # of models that were received; this one is A's own
        Path(model, name).unlink(missing_ok=True)
    if VALIDATION.is_file():  # it is not while benchmarks/pack_demo_models.py makes it
        validation = os.path.join(model, f"fold_{FOLD}", "validation")
        os.makedirs(validation, exist_ok=True)
        atomically(os.path.join(validation, "summary.json"), lambda path: shutil.copyfile(VALIDATION, path))
    os.makedirs(data, exist_ok=True)
    extract_fingerprint_dataset(host.dataset_id, num_processes=default_num_processes, clean=True, verbose=False)
    plans = read_json(os.path.join(model, "plans.json"))
    write_json(os.path.join(data, f"{PLANS}.json"), {**plans, "dataset_name": host.dataset})
    shutil.copyfile(os.path.join(model, "dataset.json"), os.path.join(data, "dataset.json"))
    write_json(os.path.join(data, "splits_final.json"), blocked_splits(load_party("A").names["Tr"]))
    preprocess_dataset(host.dataset_id, configurations=[CONFIGURATION], num_processes=[default_num_processes])


def receive_partner(folder: str) -> None:
    """B's zip, put into `folder`."""
    atomically(os.path.join(folder, PARTNER_ZIP), lambda path: shutil.copyfile(shipped_zip("B"), path))
