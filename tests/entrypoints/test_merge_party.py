"""nnUNetv2_merge_party: what it refuses, and three real nnU-Nets merged end to end."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from model_folders import centre, edit, make_model, results  # noqa: F401 -- fixtures
from relatives import train_relatives
from stitched_model import environment, tree

from nnunetv2_stitch.entrypoints.merge_party import merge_party_entry
from nnunetv2_stitch.entrypoints.stitch_info import stitch_info_entry
from nnunetv2_stitch.fileio import read_json


@pytest.fixture
def call(monkeypatch, capsys):
    """`call(*arguments)` -> exit code, stdout, stderr."""
    def run(*arguments, entry=merge_party_entry):
        monkeypatch.setattr("sys.argv", ["nnUNetv2_merge_party", *map(str, arguments)])
        try:
            entry()
            code = 0
        except SystemExit as leave:
            code = leave.code
        return code, *capsys.readouterr()
    return run


def two_models(make_model, results):  # noqa: F811
    first, second = make_model("Dataset911_A", folds=(0,)), make_model("Dataset912_B", folds=(0,))
    path = second / "fold_0" / "checkpoint_final.pth"
    weights = torch.load(path)["network_weights"]
    torch.save({"network_weights": {k: v + 0.01 for k, v in weights.items()}}, path)
    return first, second


def flags(*models, **other):
    given = {"-d": "1", "-c": "2d", "-f": "0", "-o_p": "Merged", "-device": "cpu", **other}
    return ["-m", *models, *(x for k, v in given.items() for x in (k, v))]


def change_weights(path, change):
    weights = torch.load(path)["network_weights"]
    change(weights)
    torch.save({"network_weights": weights}, path)


BAD = {
    "one model": ({}, "at least two models", lambda f: f["models"].pop()),
    "twice": ({}, "are the same checkpoint", lambda f: f.update(models=[f["models"][0]] * 2)),
    "no model": ({}, "nowhere does not exist", lambda f: f.update(models=[f["models"][0], "nowhere"])),
    "name": ({"-o_p": "a__b"}, "double underscore", None),
    "place": ({"-o_p": "../x"}, "-o_p '../x': give a name of letters", None),
    "path as name": ({"-o_p": "../x"}, "-o_p '../x'", None),
    "dataset": ({"-d": "7"}, "dataset 7 in nnUNet_preprocessed", None),
    "configuration": ({"-c": "3d_fullres"}, "is of configuration 2d, not 3d_fullres", None),
    "plans": ({"-p": "Others"}, "Others.json does not exist", None),
    "base": ({"-base": "none.pth"}, "none.pth does not exist", None),
    "shape": ({}, "encoder.stages.0.0.convs.0.conv.weight is", lambda f: change_weights(
        f["checkpoint"], lambda w: w.update({"encoder.stages.0.0.convs.0.conv.weight": torch.zeros(1)}))),
    "missing": ({}, "lacks tensor", lambda f: change_weights(f["checkpoint"], lambda w: w.popitem())),
    "no tensor": ({}, "holds tensor more", lambda f: change_weights(f["checkpoint"], lambda w: w.update(more=1))),
    "nan": ({}, "NaN or infinity", lambda f: change_weights(f["checkpoint"],
                                                            lambda w: w[next(iter(w))].fill_(float("nan")))),
    "code": ({}, "could run code", lambda f: torch.save({"network_weights": {}, "x": Path}, f["checkpoint"])),
    "activation": ({}, "nonlin of their networks differ", lambda f: f["edit"](
        f["models"][1] / "plans.json",
        lambda p: p["configurations"]["2d"]["architecture"]["arch_kwargs"].update(nonlin="torch.nn.ReLU"))),
    "class": ({}, "network_class_name 'os.system' is not allowed", lambda f: [f["edit"](
        m / "plans.json", lambda p: p["configurations"]["2d"]["architecture"].update(network_class_name="os.system"))
        for m in f["models"]]),
    "labels": ({}, "their outputs are", lambda f: f["edit"](
        f["models"][1] / "dataset.json", lambda d: d.update(labels={"background": 0, "b": 1, "a": 2}))),
    "spacing": ({}, "spacing is", lambda f: f["edit"](
        f["centre"] / "nnUNetPlans.json", lambda p: p["configurations"]["2d"].update(spacing=[1.0, 1.0]))),
    "task without labels": ({"-surrogate": "task"}, "give -surrogate kl", lambda f: f["edit"](
        f["centre"] / "dataset.json", lambda d: d.update(labels={"background": 0, "c": 1}))),
    "no data": ({}, "nnUNetPlans_2d does not exist", lambda f: shutil.rmtree(f["centre"] / "nnUNetPlans_2d")),
    "taken": ({}, "already holds fold 0", lambda f: (f["results"] / "Dataset001_Centre" /
                                                     "nnUNetTrainer__Merged__2d" / "fold_0").mkdir(parents=True)),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_writes_nothing(case, call, make_model, results, centre, edit):  # noqa: F811
    other, said, spoil = BAD[case]
    first, second = two_models(make_model, results)
    found = {"models": [first, second], "centre": centre, "results": results, "edit": edit,
             "checkpoint": second / "fold_0" / "checkpoint_final.pth"}
    if spoil:
        spoil(found)
    before = tree(results, centre), sorted(results.rglob("*"))
    code, out, err = call(*flags(*found["models"], **other))
    assert code == 2 and err.count("\n") == 1 and err.startswith("error: "), err
    assert said in err, err
    assert (tree(results, centre), sorted(results.rglob("*"))) == before


@pytest.fixture(scope="module")
def relatives(world2d, tmp_path_factory):
    return train_relatives(world2d, tmp_path_factory.mktemp("relatives"))


@pytest.fixture
def used(relatives, tmp_path):
    """The relatives' world for nnU-Net, with an empty nnUNet_results."""
    with environment({**relatives.world.env, "nnUNet_results": str(tmp_path)}):
        yield relatives


@pytest.mark.slow
def test_three_models_of_one_start(used, call, tmp_path):
    before = tree(*map(Path, used.members))
    code, out, err = call(*flags(*used.members, **{"-d": "801", "-p": "nnUNetPlans", "-search_steps": "30"}))
    assert code == 0, err
    assert "Merge: the models share a common start" in out and "nnUNetv2_predict -i" in out
    folder = tmp_path / "Dataset801_HostBlobs" / "nnUNetTrainer__Merged__2d"
    record = read_json(folder / "fold_0" / "merge.json")
    scores = {row["model"]: row["score"] for row in record["table"]}
    assert {"uniform soup", "greedy soup", "FedAvg weighting", "Fisher merging", "guided"} < scores.keys()
    written = scores[record["chosen"]]
    assert written >= max(scores[k] for k in scores if k.startswith("Dataset") or k == "FedAvg weighting")
    assert record["search"]["seed"] == 12345 and record["check"]["verdict"] == "merge"
    assert len(record["groups"]) == 8 and all(len(v) == 8 for v in record["coefficients"].values())
    assert (folder / "fold_0" / "merge.png").stat().st_size > 5000
    card = (folder / "MODEL_CARD.md").read_text()
    assert all(m["sha256"] in card for m in record["members"])
    assert sorted(p.name for p in folder.iterdir()) == ["MODEL_CARD.md", "dataset.json", "fold_0", "plans.json",
                                                       "report.html"]
    assert tree(*map(Path, used.members)) == before

    checkpoint = torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=True)
    assert checkpoint["trainer_name"] == "nnUNetTrainer"
    assert "nnunetv2_stitch" not in (folder / "plans.json").read_text()
    assert_stock_predictor_scores(used.world, folder, written)


def assert_stock_predictor_scores(world, folder, dice):
    """Stock nnU-Net predicts with the folder, and its Dice on the validation cases is what merge.json says."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False,
                                perform_everything_on_device=False)
    predictor.initialize_from_trained_model_folder(str(folder), (0,))
    import SimpleITK as sitk
    cases = read_json(world.preprocessed / world.host.dataset / "splits_final.json")[0]["val"]
    per_case = []
    for case in cases:
        raw = world.raw / world.host.dataset
        image, properties = predictor.plans_manager.image_reader_writer_class().read_images(
            [str(raw / "imagesTr" / f"{case}_0000.nii.gz")])
        predicted = predictor.predict_single_npy_array(image, properties)
        labels = sitk.GetArrayFromImage(sitk.ReadImage(str(raw / "labelsTr" / f"{case}.nii.gz")))
        per_case.append([2 * ((predicted == k) & (labels == k)).sum() / ((predicted == k).sum() + (labels == k).sum())
                         for k in (1, 2)])
    assert np.mean(per_case) == pytest.approx(dice, abs=1e-3)


@pytest.mark.slow
def test_same_seed_same_model_and_a_base(used, call, tmp_path):
    """Also as zips, which is how members arrive."""
    from nnunetv2_stitch.exchange.export import export_party
    from nnunetv2_stitch.parties.model_folder import read_model_folder
    zips = [str(tmp_path / f"member{i}.zip") for i in range(2)]
    for path, member in zip(zips, used.members[::2]):
        export_party(read_model_folder(member), path, name=Path(path).stem, licence="CC0")
    found = []
    for name in ("One", "Two"):
        arguments = {"-d": "801", "-p": "nnUNetPlans", "-search_steps": "6", "-o_p": name, "-base": used.start,
                     "-granularity": "tensor", "-seed": "7"}
        code, out, err = call(*flags(*zips, **arguments))
        assert code == 0, err
        fold = tmp_path / "Dataset801_HostBlobs" / f"nnUNetTrainer__{name}__2d" / "fold_0"
        found.append((read_json(fold / "merge.json"), torch.load(fold / "checkpoint_final.pth", weights_only=True)))
    (one, first), (two, second) = found
    assert {**one, "plans_name": ""} == {**two, "plans_name": ""}
    assert all(torch.equal(v, second["network_weights"][k]) for k, v in first["network_weights"].items())
    assert one["search"]["seed"] == 7 and one["base"]["kind"] == "checkpoint" and one["members"][0]["licence"] == "CC0"
    assert one["check"]["lines"][0]["delta_cosine"] is not None


@pytest.fixture
def strangers(used, tmp_path):
    """Two models that were initialised independently."""
    world = used.world
    second = tmp_path / "Dataset805_Other" / world.model(world.host).name
    shutil.copytree(world.model(world.host), second, ignore=shutil.ignore_patterns("fold_0", "validation"))
    (second / "fold_1").rename(second / "fold_0")
    return world.model(world.host), second


@pytest.mark.slow
def test_independent_parents_are_to_be_stitched_and_the_best_is_written(strangers, call, tmp_path):
    code, out, err = call(*flags(*strangers, **{"-d": "801", "-search_steps": "2"}))
    assert code == 0, err
    record = read_json(tmp_path / "Dataset801_HostBlobs" / "nnUNetTrainer__Merged__2d" / "fold_0" / "merge.json")
    assert record["check"]["verdict"] == "stitch" and out.count("Stitch, do not merge: ") == 2
    assert record["check"]["lines"][0]["barrier"] > 0.1 and record["check"]["lines"][0]["alike"] < 0.1
    best = next(row["model"] for row in record["table"] if row["kind"] == "best member")
    assert record["chosen"] == best and f"written is the best member, {best}, unchanged" in out

    code, out, err = call("-m_a", strangers[0], "-m_b", strangers[1], "--merge_check", "-f", "0",
                          entry=stitch_info_entry)
    assert code == 0 and "Stitch, do not merge: " in out and "loss at 0.5" in out


@pytest.mark.slow
def test_statistics_of_batch_norm_are_the_centres(used, call, edit, tmp_path):  # noqa: F811
    from nnunetv2_stitch.parties.model_folder import read_model_folder
    from nnunetv2_stitch.stitching.description import build_parent
    folders = []
    for number in range(2):
        folder = shutil.copytree(used.members[0], tmp_path / f"Dataset80{number}_Norm" / Path(used.members[0]).name)
        edit(folder / "plans.json", lambda p: p["configurations"]["2d"]["architecture"]["arch_kwargs"].update(
            norm_op="torch.nn.modules.batchnorm.BatchNorm2d"))
        model = read_model_folder(str(folder))
        torch.manual_seed(0)
        network = build_parent(model.network_spec, 1, 3)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.05 * number * torch.randn_like(parameter))
        torch.save({"network_weights": network.state_dict()}, folder / "fold_0" / "checkpoint_final.pth")
        folders.append(folder)
    code, out, err = call(*flags(*folders, **{"-d": "801", "-p": "nnUNetPlans", "-search_steps": "10", "-lr": "0.3"}))
    assert code == 0, err
    folder = tmp_path / "Dataset801_HostBlobs" / "nnUNetTrainer__Merged__2d"
    assert read_json(folder / "fold_0" / "merge.json")["batch_norm_measured_anew"]
    weights = torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=True)["network_weights"]
    means = [v for k, v in weights.items() if k.endswith("running_mean")]
    assert means and all(v.abs().max() > 0 for v in means)  # zero in both members


@pytest.mark.slow
def test_cmaes(used, call, tmp_path):
    pytest.importorskip("cma")
    code, out, err = call(*flags(*used.members[::2], **{
        "-d": "801", "-p": "nnUNetPlans", "-search_steps": "3", "-lr": "0.3", "-search": "cmaes",
        "-granularity": "model"}))
    assert code == 0, err
    record = read_json(tmp_path / "Dataset801_HostBlobs" / "nnUNetTrainer__Merged__2d" / "fold_0" / "merge.json")
    assert record["search"]["method"] == "cmaes" and len(record["search"]["history"]) == 3
    assert record["groups"] == ["whole network"]


@pytest.mark.slow
def test_without_usable_labels_the_members_mean_is_the_goal(used, call, tmp_path):
    preprocessed = shutil.copytree(used.world.preprocessed, tmp_path / "preprocessed")
    path = preprocessed / used.world.host.dataset / "dataset.json"
    path.write_text(json.dumps({**read_json(path), "labels": {"background": 0, "something": 1}}))
    with environment({**used.world.env, "nnUNet_results": str(tmp_path), "nnUNet_preprocessed": str(preprocessed)}):
        given = flags(*used.members, **{"-d": "801", "-p": "nnUNetPlans", "-search_steps": "10"})
        code, _, err = call(*given, "-surrogate", "task")
        assert code == 2 and err.count("\n") == 1 and "give -surrogate kl" in err
        code, out, err = call(*given)
    assert code == 0, err
    folder = tmp_path / "Dataset801_HostBlobs" / "nnUNetTrainer__Merged__2d"
    record = read_json(folder / "fold_0" / "merge.json")
    assert record["search"]["loss"] == "kl" and record["scored_by"] == "minus KL to the members' mean"
    assert max(row["score"] for row in record["table"]) < 0
    assert "a" in read_json(folder / "dataset.json")["labels"]


def test_info_without_data_judges_by_the_weights(call, make_model, results, edit):  # noqa: F811
    models = two_models(make_model, results)
    code, out, _ = call("-m_a", models[0], "-m_b", models[1], "--merge_check", entry=stitch_info_entry)
    assert code == 0 and "Merge: the models share a common start" in out and "The loss was not measured: " in out
    code, out, _ = call("-m_a", models[0], "-m_b", models[1], "--merge_check", "--json", entry=stitch_info_entry)
    assert json.loads(out)["merge_check"]["verdict"] == "merge"
    edit(models[1] / "plans.json",
         lambda p: p["configurations"]["2d"]["architecture"]["arch_kwargs"].update(nonlin="torch.nn.ReLU"))
    code, out, _ = call("-m_a", models[0], "-m_b", models[1], "--merge_check", entry=stitch_info_entry)
    assert "Stitch, do not merge: " in out and "nonlin of their networks differ" in out
