"""What a sender's zip holds, and what it must not hold; what is refused, in one line."""

import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from exchange.zips import members, require_absent

from nnunetv2_stitch.entrypoints.export_party import export_party_entry
from nnunetv2_stitch.exchange.export import export_party
from nnunetv2_stitch.parties.model_folder import read_model_folder

SECRETS = ("patient_0815", "secret-host-name", "/home/doctor", "Mueller", "31337", "777", "mean_fg_dice")
OURS = ["fold_0.safetensors", "fold_1.safetensors", "plans.json", "dataset.json", "MODEL_CARD.md", "party.json"]
PREFIX = "Dataset007_SiteB/nnUNetTrainer__nnUNetPlans__2d/"


@pytest.fixture
def copy(sender, tmp_path) -> Path:
    """A copy of the sender's model folder that the test may change."""
    return Path(shutil.copytree(sender.parent, tmp_path / sender.parent.name)) / sender.name


@pytest.fixture
def bad(export, copy, tmp_path, capsys):
    """`bad(*flags)`: the one line said; nothing is written."""
    def call(*flags) -> str:
        flags = list(flags)
        for flag, value in (("-m", copy), ("-o", tmp_path / "out.zip")):
            if flag not in flags and not (flag == "-m" and "-d" in flags):
                flags += [flag, value]
        with pytest.raises(SystemExit) as caught:
            export(*flags)
        said = capsys.readouterr().err
        assert caught.value.code == 2 and said.startswith("error: ") and said.count("\n") == 1, said
        assert not (tmp_path / "out.zip").exists() and not list(tmp_path.glob(".tmp*"))
        return said
    return call


@pytest.mark.parametrize("stock", [False, True])
def test_nothing_but_what_a_partner_needs(stock, copy, tmp_path, export):
    said = export("-m", copy, "-o", tmp_path / "out.zip", "-name", "SiteB", *(["--stock"] if stock else []))
    wanted = [PREFIX + n for n in ("plans.json", "dataset.json", "MODEL_CARD.md", "party.json",
                                   "fold_0/checkpoint_final.pth", "fold_1/checkpoint_final.pth")] if stock else OURS
    assert sorted(members(tmp_path / "out.zip")) == sorted(wanted)
    require_absent(tmp_path / "out.zip", (*SECRETS, str(tmp_path), str(copy)))
    for left_out in ("report.html", "dataset_fingerprint.json", "fold_0/debug.json", "fold_1/training_log_2026.txt",
                     "fold_0/validation/ (2 files", "plans.json: my_notes", "dataset.json: training",
                     "configurations.2d_bs4", "optimizer_state", "percentile of the intensities"):
        assert left_out in said, left_out
    assert "patient_0815" not in said


def test_memory_beside_a_tensor_does_not_travel(copy, tmp_path, export):
    """The last tensor is a view of a buffer of 4000 bytes, as some optimizers keep them."""
    export("-m", copy, "-o", tmp_path / "out.zip", "--stock", "-f", 0, "-name", "SiteB")
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        data = archive.read(PREFIX + "fold_0/checkpoint_final.pth")
    loaded = torch.load(io.BytesIO(data), weights_only=True)
    for tensor in loaded["network_weights"].values():
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    assert set(loaded) == {"network_weights", "current_epoch", "init_args", "trainer_name",
                           "inference_allowed_mirroring_axes"}
    assert loaded["trainer_name"] == "nnUNetTrainer" and loaded["inference_allowed_mirroring_axes"] == (0, 1)


def test_manifest_and_card(party_zip):
    with zipfile.ZipFile(party_zip) as archive:
        party, card = json.loads(archive.read("party.json")), archive.read("MODEL_CARD.md").decode()
        plans, dataset_json = (json.loads(archive.read(n)) for n in ("plans.json", "dataset.json"))
    assert party["name"] == "SiteB" and party["licence"] == "CC BY 4.0" and party["contact"] == "b@example.org"
    assert party["labels"] == {"background": 0, "a": 1, "b": 2} and party["channels"] == ["MRI"]
    assert party["training_cases"] == 4 and party["trained_with"] == {"torch": "2.6.0+cu124"}
    assert [f["dice"] for f in party["folds"]] == [{"a": 0.91, "b": 0.5}, {"a": 0.91, "b": 0.6}]
    assert [f["mirroring_axes"] for f in party["folds"]] == [[0, 1]] * 2
    assert set(party["exported_with"]) == {"nnunetv2", "torch", "nnunetv2-stitch"}
    assert set(party["files"]) == set(OURS) - {"party.json"}
    for expected in ("# SiteB", "CC BY 4.0", "| Training cases | 4 |", "| 0 | 0.910 | 0.500 |", "normalisation needs"):
        assert expected in card
    assert plans["dataset_name"] == "SiteB" and list(plans["configurations"]) == ["2d"]
    assert plans["foreground_intensity_properties_per_channel"] == {
        "0": {"mean": 100.0, "std": 20.0, "percentile_00_5": 10.0, "percentile_99_5": 200.0}}
    assert set(dataset_json) == {"channel_names", "labels", "numTraining", "file_ending"}


def test_each_tensor_once_and_as_trained(party_zip, sender):
    trained = torch.load(sender / "fold_0" / "checkpoint_final.pth", weights_only=False)["network_weights"]
    with zipfile.ZipFile(party_zip) as archive:
        sent = safetensors.torch.load(archive.read("fold_0.safetensors"))
    assert all(torch.equal(v, trained[k]) and v.dtype == trained[k].dtype for k, v in sent.items())
    assert len(sent) < len(trained) / 2 and not any(".all_modules." in k for k in sent)


def test_same_model_same_bytes(copy, tmp_path):
    for name in ("a.zip", "b.zip"):
        export_party(read_model_folder(str(copy)), str(tmp_path / name))
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_output_is_replaced_and_folds_are_chosen(copy, tmp_path, export):
    (tmp_path / "out.zip").write_text("old")
    export("-m", copy, "-o", tmp_path / "out.zip", "-f", 1, "-name", "B")
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert [n for n in archive.namelist() if n.startswith("fold")] == ["fold_1.safetensors"]


def test_by_dataset(copy, tmp_path, export, monkeypatch):
    monkeypatch.setenv("nnUNet_results", str(copy.parent.parent))
    for dataset in ("7", "Dataset007_Mueller"):
        assert "nnUNetTrainer__nnUNetPlans__2d" in export("-d", dataset, "-c", "2d", "-tr", "nnUNetTrainer", "-p",
                                                          "nnUNetPlans", "-o", tmp_path / "out.zip")


def test_several_models_of_a_dataset(copy, bad, monkeypatch):
    monkeypatch.setenv("nnUNet_results", str(copy.parent.parent))
    shutil.copytree(copy, copy.parent / "nnUNetTrainerX__nnUNetPlans__2d")
    assert "choose with -c, -tr or -p" in bad("-d", "7")


def test_flags_that_do_not_fit(bad, tmp_path, copy):
    assert "either -m MODEL_FOLDER or -d DATASET" in bad("-m", copy, "-d", "7")
    assert "with -m leave them out" in bad("-c", "2d")
    assert "ends with .zip" in bad("-o", tmp_path)
    assert "ends with .zip" in bad("-o", tmp_path / "model.tar")
    assert "nowhere does not exist" in bad("-o", tmp_path / "nowhere" / "a.zip")
    assert "of fold 4" in bad("-f", 4)
    assert "names a fold twice" in bad("-f", 0, 0)
    assert "no fold with checkpoint_typo.pth" in bad("-chk", "checkpoint_typo.pth")
    assert "-name a/b" in bad("-name", "a/b")
    assert "does not exist" in bad("-m", tmp_path / "nowhere")


def test_stock_needs_the_name_of_a_dataset(copy, bad, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(copy, elsewhere / copy.name)
    plans = json.loads((elsewhere / copy.name / "plans.json").read_text())
    (elsewhere / copy.name / "plans.json").write_text(json.dumps({**plans, "dataset_name": "Liver"}))
    assert "give -name DatasetNNN_NAME" in bad("--stock", "-m", elsewhere / copy.name)


def change_weights(folder: Path, change) -> None:
    path = folder / "fold_1" / "checkpoint_final.pth"
    checkpoint = torch.load(path, weights_only=False)
    change(checkpoint["network_weights"])
    torch.save(checkpoint, path)


@pytest.mark.parametrize("change, said", [
    (lambda w: w.update({next(iter(w)): next(iter(w.values())) * float("nan")}), "NaN"),
    (lambda w: w.update(extra=torch.zeros(1)), "holds tensor extra"),
    (lambda w: w.update({next(iter(w)): next(iter(w.values())) + 1}), "are one tensor"),
    (lambda w: w.pop(next(iter(w))), "lacks tensor"),
])
def test_weights_that_a_receiver_would_refuse(change, said, copy, bad):
    change_weights(copy, change)
    line = bad()
    assert said in line and str(copy / "fold_1") in line


def test_prefixes_of_ddp_and_compile(copy, party_zip, tmp_path):
    change_weights(copy, lambda w: [w.update({f"module.{k}": w.pop(k)}) for k in list(w)])
    done = export_party(read_model_folder(str(copy)), str(tmp_path / "out.zip"), name="SiteB")
    with zipfile.ZipFile(party_zip) as before, zipfile.ZipFile(done.path) as after:
        assert before.read("fold_1.safetensors") == after.read("fold_1.safetensors")


@pytest.mark.parametrize("key, value", [("preprocessor_name", "MyPreprocessor"),
                                        ("normalization_schemes", ["MyNormalization"])])
def test_parts_that_the_receiver_cannot_have(key, value, copy, bad):
    plans = json.loads((copy / "plans.json").read_text())
    plans["configurations"]["2d"][key] = value
    (copy / "plans.json").write_text(json.dumps(plans))
    assert f"{key} 'My" in bad()


def test_trainer_that_swaps_layers(copy, bad):
    renamed = copy.rename(copy.parent / "nnUNetTrainerBN__nnUNetPlans__2d")
    assert "nnUNetTrainerBN builds another network" in bad("-m", renamed)


def test_stitched_models_travel_with_stock_export(copy, bad):
    plans = json.loads((copy / "plans.json").read_text())
    plans["configurations"]["2d"]["architecture"]["network_class_name"] = \
        "nnunetv2_stitch.stitching.network.StitchedEnsemble"
    (copy / "plans.json").write_text(json.dumps(plans))
    assert "nnUNetv2_export_model_to_zip" in bad()


def test_interrupted(copy, tmp_path):
    def interrupt(text):
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        export_party(read_model_folder(str(copy)), str(tmp_path / "out.zip"), say=interrupt)
    assert sorted(p.name for p in tmp_path.iterdir()) == [copy.parent.name]


def test_what_does_not_travel_stops_no_export(copy, tmp_path, export, results, install):
    """Kind: of one's own files nothing is checked but what is sent."""
    plans, dataset = (json.loads((copy / name).read_text()) for name in ("plans.json", "dataset.json"))
    other = json.loads(json.dumps(plans["configurations"]["2d"]))
    other.update(preprocessor_name="MyOwnPreprocessor", normalization_schemes=["MyOwnNormalization"])
    other["architecture"]["network_class_name"] = "my.own.Network"
    plans["configurations"] |= {"3d_mine": other, "3d_half": {"inherits_from": "nowhere"}}
    plans.update(my_notes="n" * 10_000, my_table=list(range(200_000)))
    plans["foreground_intensity_properties_per_channel"]["0"].update(max=float("inf"), note="x")
    dataset.update(description="d" * 10_000, name=None, reference=["a paper", "another"], licence="l" * 10_000,
                   numTraining="many", regions_class_order=None, training=[{"image": "patient_0815"}] * 100_000)
    for name, value in (("plans.json", plans), ("dataset.json", dataset)):
        (copy / name).write_text(json.dumps(value))
    said = export("-m", copy, "-o", tmp_path / "out.zip", "-name", "SiteB", "-licence", "CC BY 4.0")
    for left_out in ("plans.json: my_notes", "plans.json: configurations.3d_mine", "dataset.json: description",
                     "dataset.json: name", "dataset.json: licence", "dataset.json: numTraining"):
        assert left_out in said, left_out
    assert "Dataset999_B" in install(tmp_path / "out.zip", "-as", "B")


def test_ones_own_checkpoint_with_more_than_numbers_has_a_way_out(copy, tmp_path, bad, capsys, monkeypatch):
    """Arrays, numpy's texts and paths, as trainers of one's own put them there: the line names the way, and it leads
    to a zip that needs no trust."""
    path = copy / "fold_1" / "checkpoint_final.pth"
    for value in (np.array([1.0, 2.0]), np.str_("a"), Path("/home/doctor")):
        checkpoint = torch.load(path, weights_only=False)
        torch.save({**checkpoint, "mine": value}, path)
        assert "a model of your own is read with --trust" in bad()
    monkeypatch.setattr("sys.argv", ["nnUNetv2_export_party", "-m", str(copy), "-o", str(tmp_path / "out.zip"),
                                     "-name", "SiteB", "--trust"])
    export_party_entry()
    said = capsys.readouterr()
    assert "mine" in said.out and said.err.startswith("--trust: ")
    require_absent(tmp_path / "out.zip", SECRETS)
