"""A small trained model as its owner has it, with everything that must not travel; its export; and both commands."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from exchange.zips import as_told, everything_below, members, write_zip
from networks import build, spec

from nnunetv2_stitch.entrypoints import export_party as export_command
from nnunetv2_stitch.entrypoints import install_party as install_command
from nnunetv2_stitch.entrypoints.common import run
from nnunetv2_stitch.exchange.export import export_party
from nnunetv2_stitch.parties.model_folder import read_model_folder

RESAMPLING = {f"resampling_fn_{kind}{end}": value for kind in ("data", "seg", "probabilities") for end, value in (
    ("", "resample_data_or_seg_to_shape"), ("_kwargs", {"is_seg": False, "order": 1, "force_separate_z": None}))}
IDENTIFIER = "nnUNetTrainer__nnUNetPlans__2d"


def plans() -> dict:
    one = {"data_identifier": "nnUNetPlans_2d", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2,
           "patch_size": [32, 32], "median_image_size_in_voxels": [777.0, 555.0], "spacing": [1.5, 1.5],
           "normalization_schemes": ["ZScoreNormalization"], "use_mask_for_norm": [False], "batch_dice": True,
           "architecture": spec(), **RESAMPLING}
    return {"dataset_name": "Dataset007_Mueller", "plans_name": "nnUNetPlans", "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2], "image_reader_writer": "SimpleITKIO", "label_manager": "LabelManager",
            "experiment_planner_used": "ExperimentPlanner", "my_notes": "/home/doctor/data",
            "foreground_intensity_properties_per_channel": {"0": {
                "mean": 100.0, "std": 20.0, "percentile_00_5": 10.0, "percentile_99_5": 200.0, "max": 31337.5}},
            "configurations": {"2d": one, "2d_bs4": {"inherits_from": "2d", "batch_size": 4}}}


def dataset_json() -> dict:
    return {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "a": 1, "b": 2}, "numTraining": 4,
            "file_ending": ".nii.gz", "description": "from /home/doctor", "training": ["patient_0815"]}


def checkpoint(fold: int) -> dict:
    flat = torch.full((1000,), 0.5)  # a buffer of which the network's last tensor is only a part
    weights = build(spec(), seed=fold).state_dict()
    last = list(weights)[-1]
    flat[:weights[last].numel()] = weights[last]
    weights[last] = flat[:weights[last].numel()]
    return {"network_weights": weights, "optimizer_state": {"state": {0: torch.ones(3)}},
            "grad_scaler_state": None, "logging": {"mean_fg_dice": [np.float32(0.5)]}, "_best_ema": np.float32(0.5),
            "current_epoch": 7, "trainer_name": "nnUNetTrainer", "inference_allowed_mirroring_axes": (0, 1),
            "init_args": {"plans": plans(), "configuration": "2d", "fold": fold, "dataset_json": dataset_json(),
                          "device": torch.device("cpu")}}


def write_model(folder: Path, identifier: str = IDENTIFIER, folds=(0, 1)) -> Path:
    """A model folder as nnU-Net leaves it."""
    folder = folder / "Dataset007_Mueller" / identifier
    for fold in folds:
        (folder / f"fold_{fold}" / "validation").mkdir(parents=True)
        torch.save(checkpoint(fold), folder / f"fold_{fold}" / "checkpoint_final.pth")
        files = {"debug.json": {"hostname": "secret-host-name", "torch_version": "2.6.0+cu124"},
                 "validation/summary.json": {"mean": {"1": {"Dice": 0.91}, "2": {"Dice": 0.5 + fold / 10}},
                                             "metric_per_case": [{"prediction_file": "/home/doctor/patient_0815"}]}}
        for name, value in files.items():
            (folder / f"fold_{fold}" / name).write_text(json.dumps(value))
        for name in ("progress.png", "training_log_2026.txt", "validation/patient_0815.nii.gz"):
            (folder / f"fold_{fold}" / name).write_text("patient_0815 on secret-host-name")
    (folder / "report.html").write_text("patient_0815")  # of a stitched or adapted model: it shows patients
    for name, value in (("plans.json", plans()), ("dataset.json", dataset_json()),
                        ("dataset_fingerprint.json", {"shapes_after_crop": [[1, 777, 555]]})):
        (folder / name).write_text(json.dumps(value))
    return folder


@pytest.fixture(scope="session")
def sender(tmp_path_factory) -> Path:
    """The owner's model folder. Read only."""
    return write_model(tmp_path_factory.mktemp("sender"))


@pytest.fixture(scope="session")
def party_zip(sender, tmp_path_factory) -> Path:
    """Its export. Read only."""
    path = tmp_path_factory.mktemp("sent") / "party.zip"
    export_party(read_model_folder(str(sender)), str(path), name="SiteB", licence="CC BY 4.0", contact="b@example.org")
    return path


@pytest.fixture
def results(tmp_path, monkeypatch) -> Path:
    """The receiver's empty nnUNet_results; the other folders are not set."""
    folder = tmp_path / "results"
    folder.mkdir()
    monkeypatch.setenv("nnUNet_results", str(folder))
    return folder


@pytest.fixture
def export(capsys):
    """`export(*arguments)` as on the command line; returns what is printed."""
    def call(*arguments) -> str:
        args = export_command.build_parser().parse_args([str(a) for a in arguments])
        run(lambda: export_command.main(args), verbose=args.verbose)
        return capsys.readouterr().out
    return call


@pytest.fixture
def install(capsys):
    """`install(*arguments)` as on the command line; returns what is printed."""
    def call(*arguments) -> str:
        args = install_command.build_parser().parse_args([str(a) for a in arguments])
        run(lambda: install_command.main(args), verbose=args.verbose)
        return capsys.readouterr().out
    return call


@pytest.fixture
def refused(results, install, capsys, tmp_path):
    """`refused(zip)`: the one line that the command says. Nothing of the zip was run, and no file was left."""
    def call(path, *arguments) -> str:
        sentinel, before = tmp_path / "ran", everything_below(results)
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            install(path, "-as", "SiteB", *arguments)
        said = capsys.readouterr()
        assert caught.value.code == 2, said.err
        assert said.err.startswith("error: ") and said.err.count("\n") == 1 and "Traceback" not in said.err, said.err
        assert said.err[:-1].isprintable() and ".unpacking" not in said.err, said.err
        assert said.out == ""
        assert everything_below(results) == before
        assert not sentinel.exists()
        return said.err
    return call


@pytest.fixture
def changed_zip(party_zip, tmp_path):
    """`changed_zip(change)` lets `change` alter the members of the export; `told=False` keeps the old sha256."""
    def make(change, told: bool = True) -> Path:
        contents = members(party_zip)
        change(contents)
        return write_zip(tmp_path / "changed.zip", as_told(contents) if told else contents)
    return make


@pytest.fixture
def bad_json(changed_zip, refused):
    """`bad_json("plans.json", change)`: the line said when `change` altered that file of an otherwise good zip."""
    def call(name, change) -> str:
        def alter(contents):
            value = json.loads(contents[name])
            change(value)
            contents[name] = json.dumps(value).encode()
        return refused(changed_zip(alter, told=name != "party.json"))
    return call
