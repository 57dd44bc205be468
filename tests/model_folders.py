"""Model folders made by hand: as nnU-Net's, with a small plan and an untrained network."""

import json

import pytest
import torch
from networks import build, spec

DATASET_JSON = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "a": 1, "b": 2}, "numTraining": 4,
                "file_ending": ".nii.gz"}


def plans_for(dataset: str, plans_name: str, *configurations: str) -> dict:
    def one(name):
        dim = 2 if name.startswith("2d") else 3
        return {"data_identifier": f"nnUNetPlans_{name}", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2,
                "patch_size": [32] * dim, "spacing": [1.5] * dim, "normalization_schemes": ["ZScoreNormalization"],
                "use_mask_for_norm": [False], "batch_dice": True, "architecture": spec(dim=dim)}
    return {"dataset_name": dataset, "plans_name": plans_name, "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2], "image_reader_writer": "SimpleITKIO", "label_manager": "LabelManager",
            "foreground_intensity_properties_per_channel": {
                "0": {"mean": 100.0, "std": 20.0, "percentile_00_5": 10.0, "percentile_99_5": 200.0, "median": 99.0}},
            "configurations": {name: one(name) for name in configurations}}


@pytest.fixture
def edit():
    """`edit(path, change)` lets `change` alter the contents of a JSON file."""
    def edit_json(path, change):
        contents = json.loads(path.read_text())
        change(contents)
        path.write_text(json.dumps(contents))
    return edit_json


@pytest.fixture
def results(tmp_path, monkeypatch):
    """An empty nnUNet_results."""
    folder = tmp_path / "results"
    folder.mkdir()
    monkeypatch.setenv("nnUNet_results", str(folder))
    return folder


@pytest.fixture
def make_model(results):
    """`make_model("Dataset911_A")` writes a model folder into nnUNet_results and returns its path."""
    weights = {}

    def make(dataset, identifier="nnUNetTrainer__nnUNetPlans__2d", folds=(0, 1)):
        folder = results / dataset / identifier
        _, plans_name, configuration = identifier.split("__")
        dim = 2 if configuration.startswith("2d") else 3
        if dim not in weights:
            weights[dim] = build(spec(dim=dim)).state_dict()
        for fold in folds:
            (folder / f"fold_{fold}").mkdir(parents=True)
            torch.save({"network_weights": weights[dim]}, folder / f"fold_{fold}" / "checkpoint_final.pth")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "plans.json").write_text(json.dumps(plans_for(dataset, plans_name, configuration)))
        (folder / "dataset.json").write_text(json.dumps(DATASET_JSON))
        return folder
    return make


@pytest.fixture
def centre(tmp_path, monkeypatch):
    """A preprocessed dataset of two cases without contents, of the plans of `make_model`'s models."""
    folder = tmp_path / "preprocessed" / "Dataset001_Centre"
    (folder / "nnUNetPlans_2d").mkdir(parents=True)
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans_for("Dataset001_Centre", "nnUNetPlans", "2d")))
    (folder / "dataset.json").write_text(json.dumps(DATASET_JSON))
    (folder / "splits_final.json").write_text(json.dumps([{"train": ["a"], "val": ["b"]}] * 2))
    (folder / "gt_segmentations").mkdir()
    for case in "ab":
        for name in (f"nnUNetPlans_2d/{case}.b2nd", f"nnUNetPlans_2d/{case}_seg.b2nd", f"nnUNetPlans_2d/{case}.pkl",
                     f"gt_segmentations/{case}.nii.gz"):
            (folder / name).touch()
    monkeypatch.setenv("nnUNet_preprocessed", str(folder.parent))
    return folder
