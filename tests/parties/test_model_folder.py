import dataclasses
import json
import shutil

import pytest

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.parties.find import dataset_folder, find_models, find_pair, select_model
from nnunetv2_stitch.parties.model_folder import read_model_folder

STITCHED = "nnunetv2_stitch.stitching.network.StitchedEnsemble"


@pytest.fixture
def refuses():
    """`refuses(function, *arguments)` returns the message of the StitchError, one line."""
    def call(function, *arguments, **keywords) -> str:
        with pytest.raises(StitchError) as error:
            function(*arguments, **keywords)
        assert "\n" not in str(error.value)
        return str(error.value)
    return call


def test_reads_what_nnunet_wrote(world2d, nnunet_env):
    nnunet_env(world2d)
    for party in (world2d.host, world2d.partner):
        model = select_model(party.dataset_id)
        assert model == read_model_folder(str(world2d.model(party)))
        assert (model.dataset_name, model.folds) == (party.dataset, (0, 1))
        assert model.identifier == "nnUNetTrainerTiny__nnUNetPlans__2d"
        assert (model.num_input_channels, model.num_outputs) == (1, 3)
        assert model.network_spec["arch_kwargs"]["features_per_stage"] == list(party.features)
        assert json.loads(json.dumps(model.network_spec)) == model.network_spec
        assert list(model.configuration_manager.patch_size) == [64, 64]
        assert model.checkpoint_path(1).endswith("fold_1/checkpoint_final.pth")
        with pytest.raises(dataclasses.FrozenInstanceError):
            model.path = ""
    assert [m.dataset_name for m in find_pair(801, "802")] == [world2d.host.dataset, world2d.partner.dataset]


def test_folds(make_model, refuses):
    folder = make_model("Dataset911_A", folds=(10, 2, "all"))
    (folder / "fold_3").mkdir()
    (folder / "fold_4.bak").mkdir()
    (folder / "fold_4.bak" / "checkpoint_final.pth").touch()
    model = read_model_folder(str(folder))
    assert model.folds == (2, 10, "all")
    assert model.checkpoint_path("all").endswith("fold_all/checkpoint_final.pth")
    assert "of fold 3; folds that have it: 2, 10, all" in refuses(model.checkpoint_path, 3)
    assert "checkpoint_best.pth of fold 2; folds that have it: none" in refuses(model.checkpoint_path, 2,
                                                                                "checkpoint_best.pth")
    assert read_model_folder(str(folder), "checkpoint_best.pth").folds == ()


def test_folders_that_are_no_model(make_model, refuses, tmp_path):
    assert "does not exist" in refuses(read_model_folder, str(tmp_path / "nothing"))
    assert "is not a model folder" in refuses(read_model_folder, str(tmp_path))
    folder = make_model("Dataset911_A")
    plans, dataset = folder / "plans.json", folder / "dataset.json"
    good = {p: p.read_text() for p in (plans, dataset)}
    parsed = json.loads(good[plans])
    bad_configuration = {k: v for k, v in parsed["configurations"]["2d"].items() if k != "architecture"}
    for path, text, message in [
        (plans, "", "not readable JSON"), (plans, "[]", "plans.json has no configurations"),
        (plans, '{"configurations": {}}', "does not describe configuration 2d"),
        (plans, json.dumps({**parsed, "configurations": {"2d": bad_configuration}}), "not a plans file"),
        (plans, json.dumps({**parsed, "configurations": {"2d": None}}), "not a plans file"),
        (plans, json.dumps({**parsed, "configurations": {"2d": {"inherits_from": "2d"}}}), "not a plans file"),
        (dataset, "{}", "dataset.json has no labels"),
        (dataset, '{"labels": {"background": 1}, "channel_names": {"0": "MRI"}}', "not a dataset.json"),
        (dataset, '{"labels": {"background": 0, "a": 1}}', "not a dataset.json"),
        (dataset, '{"labels": {"background": 0, "a": 1}, "channel_names": {}}', "not a dataset.json"),
        (dataset, '{"labels": {"background": 0, "a": 1}, "channel_names": ["MRI"]}', "not a dataset.json"),
    ]:
        path.write_text(text)
        said = refuses(read_model_folder, str(folder))
        assert message in said and str(path) in said
        path.write_text(good[path])
    plans.unlink()
    assert str(plans) in refuses(read_model_folder, str(folder))


def test_dataset_of_a_folder_elsewhere_comes_from_its_plans(make_model, tmp_path, edit, refuses):
    folder = tmp_path / "from_b" / "nnUNetTrainer__nnUNetPlans__2d"
    shutil.copytree(make_model("Dataset912_B"), folder)
    assert read_model_folder(str(folder)).dataset_name == "Dataset912_B"
    edit(folder / "plans.json", lambda p: p.update(dataset_name="../../elsewhere"))
    assert "is not a name" in refuses(read_model_folder, str(folder))


def test_dataset_by_id_or_name(make_model, results):
    make_model("Dataset011_A")
    for dataset in (11, "11", "011", "Dataset011_A"):
        assert dataset_folder(dataset) == str(results / "Dataset011_A")
        assert len(find_models(dataset)) == 1


def test_unknown_datasets(make_model, results, refuses, monkeypatch):
    make_model("Dataset911_A")
    for dataset in (912, "Dataset911", "A", "", "Dataset911_A/../Dataset911_A", ".", "9110", 1):
        assert "datasets there: Dataset911_A" in refuses(find_models, dataset)
    make_model("Dataset911_B")
    assert "taken twice" in refuses(find_models, 911)
    assert len(find_models("Dataset911_B")) == 1
    monkeypatch.setenv("nnUNet_results", str(results / "nothing"))
    assert "does not exist" in refuses(find_models, 911)
    monkeypatch.delenv("nnUNet_results")
    assert "nnUNet_results is not set" in refuses(find_models, 911)


def test_other_folders_are_passed_over(make_model, results, edit):
    make_model("Dataset911_A")
    stitched = make_model("Dataset911_A", "nnUNetTrainerStitch__nnUNetStitchPlans__2d")
    edit(stitched / "plans.json",
         lambda p: p["configurations"]["2d"]["architecture"].update(network_class_name=STITCHED))
    for name in ("ensembles", "crossval_results_folds_0_1", "a__b", "nnUNetTrainer__nnUNetPlans__3d_fullres"):
        (results / "Dataset911_A" / name).mkdir()
    (results / "Dataset911_A" / "nnUNetTrainer__nnUNetPlans__2d.zip").touch()
    assert [m.identifier for m in find_models(911)] == ["nnUNetTrainer__nnUNetPlans__2d"]


def test_no_trained_model(make_model, results, refuses):
    (results / "Dataset911_A").mkdir()
    assert "there are: none" in refuses(find_models, 911)
    make_model("Dataset912_B", folds=())
    said = refuses(find_models, 912)
    assert "nnUNetTrainer__nnUNetPlans__2d has no fold with checkpoint_final.pth: finish its training" in said
    make_model("Dataset913_C")
    said = refuses(find_models, 913, trainer="Other")
    assert "fits Other__*__*" in said and "there are: nnUNetTrainer__nnUNetPlans__2d" in said
    assert "checkpoint_best.pth" in refuses(find_models, 913, checkpoint_name="checkpoint_best.pth")


def test_several_models_are_listed_with_the_flags_that_choose(make_model, refuses):
    for identifier in ("nnUNetTrainer__nnUNetPlans__2d", "nnUNetTrainer_100epochs__nnUNetPlans__2d"):
        make_model("Dataset911_A", identifier)
        make_model("Dataset912_B", identifier)
    said = refuses(find_pair, 911, 912)
    assert said.endswith("nnUNetTrainer_100epochs__nnUNetPlans__2d, nnUNetTrainer__nnUNetPlans__2d; choose with -tr_a")
    host, partner = find_pair(911, 912, trainer_a="nnUNetTrainer_100epochs", trainer_b="nnUNetTrainer")
    assert (host.trainer, partner.trainer) == ("nnUNetTrainer_100epochs", "nnUNetTrainer")
    assert refuses(select_model, 912, role="partner").endswith("choose with -tr_b")
    make_model("Dataset911_A", "nnUNetTrainer__nnUNetResEncUNetMPlans__2d")
    assert refuses(select_model, 911, trainer="nnUNetTrainer").endswith("choose with -p_a")
    assert refuses(select_model, 911).endswith("choose with -tr_a and -p_a")
    assert select_model(911, plans="nnUNetResEncUNetMPlans").plans_name == "nnUNetResEncUNetMPlans"


def test_pair_takes_what_both_have(make_model, refuses):
    make_model("Dataset911_A")
    make_model("Dataset911_A", "nnUNetTrainer__nnUNetPlans__3d_fullres")
    make_model("Dataset911_A", "Other__nnUNetPlans__2d")
    make_model("Dataset912_B")
    assert [m.identifier for m in find_pair(911, 912)] == ["nnUNetTrainer__nnUNetPlans__2d"] * 2
    assert [m.trainer for m in find_pair(911, 912, trainer_a="Other")] == ["Other", "nnUNetTrainer"]
    make_model("Dataset912_B", "nnUNetTrainer__nnUNetPlans__3d_fullres")
    said = refuses(find_pair, 911, 912)
    assert "both have 2d, 3d_fullres; choose with -c" in said
    assert find_pair(911, 912, "3d_fullres")[1].configuration == "3d_fullres"


def test_configurations_that_differ(make_model, refuses):
    make_model("Dataset911_A")
    make_model("Dataset912_B", "nnUNetTrainer__nnUNetPlans__3d_fullres")
    said = refuses(find_pair, 911, 912)
    assert "2d with 3d_fullres: configurations differ" in said
    assert "Dataset911_A" in said and "Dataset912_B" in said
    assert "no trained model that fits *__*__2d" in refuses(find_pair, 911, 912, "2d")


def test_cascades_are_refused(make_model, edit, refuses):
    for dataset in ("Dataset911_A", "Dataset912_B"):
        cascade = make_model(dataset, "nnUNetTrainer__nnUNetPlans__3d_cascade_fullres")
        edit(cascade / "plans.json",
             lambda p: p["configurations"]["3d_cascade_fullres"].update(previous_stage="3d_lowres"))
    assert "second stage of a cascade" in refuses(find_pair, 911, 912)
    make_model("Dataset911_A")
    make_model("Dataset912_B")
    assert find_pair(911, 912)[0].configuration == "2d"
    assert "second stage of a cascade" in refuses(select_model, 911, "3d_cascade_fullres")


def test_inherited_configuration(make_model, edit):
    folder = make_model("Dataset911_A", "nnUNetTrainer__nnUNetPlans__2d_bs4")

    def inherit(plans):
        plans["configurations"] = {"2d": plans["configurations"]["2d_bs4"],
                                   "2d_bs4": {"inherits_from": "2d", "batch_size": 4}}
    edit(folder / "plans.json", inherit)
    model = read_model_folder(str(folder))
    assert model.configuration_manager.batch_size == 4
    assert model.network_spec["network_class_name"].endswith("PlainConvUNet")


@pytest.mark.parametrize("spacing", [[0, 1.0], [-1.0, 1.0], [float("nan"), 1.0], [float("inf"), 1.0], ["1", 1.0], [],
                                     1.0])
def test_a_spacing_that_is_no_length_is_refused(make_model, edit, refuses, spacing):
    folder = make_model("Dataset911_A")
    edit(folder / "plans.json", lambda p: p["configurations"]["2d"].update(spacing=spacing))
    assert f"{folder}/plans.json: spacing must be positive numbers" in refuses(read_model_folder, str(folder))


@pytest.mark.parametrize("manager", ["Evil", "", 7, ["LabelManager"]])
def test_a_label_manager_that_is_not_there_is_the_plans_fault(make_model, edit, refuses, manager):
    folder = make_model("Dataset911_A")
    edit(folder / "plans.json", lambda p: p.update(label_manager=manager))
    said = refuses(read_model_folder, str(folder))
    assert said.startswith(f"{folder}/plans.json names a label_manager that nnU-Net does not have") and "dataset.json" \
        not in said
