"""Kind: what the package ships is not what its card, its settings and the code say of it."""

import hashlib
import re
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch

from nnunetv2_stitch.demo import shipped
from nnunetv2_stitch.demo.data import PARTIES, write_party
from nnunetv2_stitch.demo.parents import shrunk
from nnunetv2_stitch.demo.settings import CONFIGURATION, DEMO, PLANS, environment
from nnunetv2_stitch.exchange.install import unpack_party
from nnunetv2_stitch.exchange.manifest import PARTY, Manifest
from nnunetv2_stitch.fileio import read_json

ROWS = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", shipped.CARD.read_text(), re.MULTILINE))


@pytest.fixture
def folders(tmp_path, monkeypatch):
    for name, value in environment(str(tmp_path)).items():
        monkeypatch.setenv(name, value)
        if name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            Path(value).mkdir()
    return tmp_path


def manifest(key: str) -> Manifest:
    import json
    with zipfile.ZipFile(shipped.shipped_zip(key)) as archive:
        return Manifest.from_json(json.loads(archive.read(PARTY)))


@pytest.mark.parametrize("key", PARTIES)
def test_the_card_knows_the_file(key):
    for file in (shipped.shipped_zip(key), shipped.VALIDATION):
        assert ROWS[file.name] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_the_card_says_the_settings_with_which_from_scratch_trains():
    assert ROWS["trainer"] == DEMO.trainer and ROWS["features"] == " ".join(map(str, DEMO.features))
    assert (ROWS["batch_size"], ROWS["seed"]) == (str(DEMO.batch_size), str(DEMO.seed))
    assert ROWS["seeds of the trainings"] == ", ".join(f"{key} {DEMO.seed + ord(key)}" for key in PARTIES)
    assert f"--from_scratch -o FOLDER -seed {DEMO.seed}" in shipped.CARD.read_text()


def test_images_and_models_are_small():
    files = [*shipped.MODELS.iterdir(), *shipped.MODELS.parent.glob("*.npz")]
    assert sum(f.stat().st_size for f in files) < 6e6


@pytest.mark.parametrize("key", PARTIES)
def test_the_model_is_of_these_settings_and_trained_to_its_end(key):
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
    sent = manifest(key)
    assert (sent.name, sent.identifier) == (PARTIES[key].dataset, f"{DEMO.trainer}__{PLANS}__{CONFIGURATION}")
    source = recursive_find_trainer_class_by_name(DEMO.trainer).__init__.__code__
    assert sent.folds[0].epochs in source.co_consts and sent.licence
    with zipfile.ZipFile(shipped.shipped_zip(key)) as archive:
        weights = safetensors.torch.load(archive.read("fold_0.safetensors"))
        assert ("fold_0_signature.json" in archive.namelist()) == (key == "B")
    assert {w.dtype for w in weights.values()} == {torch.float16}


@pytest.mark.parametrize("key", PARTIES)
def test_planning_from_scratch_gives_the_plans_of_the_shipped_model(key, folders, thread_pools):
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprint_dataset,
        plan_experiment_dataset,
    )
    write_party(key, str(folders / "nnUNet_raw"))
    extract_fingerprint_dataset(PARTIES[key].dataset_id, num_processes=1, verbose=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_n_proc_DA", "1")
        plan_experiment_dataset(PARTIES[key].dataset_id)
    planned = shrunk(read_json(str(folders / "nnUNet_preprocessed" / PARTIES[key].dataset / f"{PLANS}.json")), DEMO)
    sent = read_json(str(Path(unpack_party(str(shipped.shipped_zip(key)), str(folders / "x")).path) / "plans.json"))
    for name in ("patch_size", "batch_size", "spacing", "normalization_schemes", "architecture", "data_identifier"):
        assert sent["configurations"][CONFIGURATION][name] == planned["configurations"][CONFIGURATION][name]
    statistics = "foreground_intensity_properties_per_channel"
    for name, value in sent[statistics]["0"].items():
        assert value == pytest.approx(planned[statistics]["0"][name], rel=1e-5)


def test_the_host_is_set_up_as_after_its_own_training(folders, thread_pools):
    """nnU-Net's predictor gives on A's validation cases the Dice that the model's validation says, and the one in A's
    zip within what half precision may do."""
    import numpy as np
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics
    from nnunetv2.imageio.nibabel_reader_writer import NibabelIO
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    write_party("A", str(folders / "nnUNet_raw"))
    host = PARTIES["A"].dataset
    for _ in range(2):  # a second time after an interruption
        shipped.install_host(str(folders / "nnUNet_results"), str(folders / "nnUNet_preprocessed"))
    model = folders / "nnUNet_results" / host / f"{DEMO.trainer}__{PLANS}__{CONFIGURATION}"
    assert not (model / PARTY).exists()
    cases = read_json(str(folders / "nnUNet_preprocessed" / host / "splits_final.json"))[0]["val"]
    predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), (0,))
    raw = folders / "nnUNet_raw" / host
    predictor.predict_from_files_sequential([[str(raw / "imagesTr" / f"{c}_0000.nii.gz")] for c in cases],
                                            [str(folders / c) for c in cases])
    found = [compute_metrics(str(raw / "labelsTr" / f"{c}.nii.gz"), str(folders / f"{c}.nii.gz"), NibabelIO(),
                             [1, 2])["metrics"] for c in cases]
    said = manifest("A").folds[0].dice
    validated = read_json(str(model / "fold_0" / "validation" / "summary.json"))["metric_per_case"]
    assert [v["reference_file"] for v in validated] == [f"{c}.nii.gz" for c in sorted(cases)]
    for label, value in (("cortex", 1), ("inner", 2)):
        of_case = dict(zip(sorted(cases), (v["metrics"][str(value)]["Dice"] for v in validated)))
        for case, m in zip(cases, found):
            assert m[value]["Dice"] == pytest.approx(of_case[case], abs=2e-3)
        assert np.nanmean([m[value]["Dice"] for m in found]) == pytest.approx(said[label], abs=2e-3)
