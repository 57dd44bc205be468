"""A whole comparison on the small world: every row trained or reused, predicted, and gone on with."""

import hashlib
import json
from pathlib import Path

import pytest
import stitched_model
import world as worlds

from nnunetv2_stitch.baselines.compare import compare
from nnunetv2_stitch.baselines.rows import ROWS, SHARES_DATA
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.parties.checkpoint import load_checkpoint
from nnunetv2_stitch.parties.model_folder import read_model_folder
from nnunetv2_stitch.pipeline import train_stitch

SHORT = {"device": "cpu", "progress": False, "tta": False, "epochs": 1, "iterations": 2, "baseline_epochs": 1,
         "baseline_iterations": 3, "positions": [2, 20, 41], "search_steps": 2}
# test_adapted_rows.py makes the others
HERE = [r.key for r in ROWS if r.key not in ("federated", "soup", "A_longer", "stitched_adapted", "gated",
                                             "gated_adapted")]


@pytest.fixture
def world(world2d, copy_world, nnunet_env, thread_pools):
    return nnunet_env(copy_world(world2d))


def run(world, **arguments):
    return compare(world.host.dataset, world.partner.dataset, **{**SHORT, **arguments})


def files(folder) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(Path(folder).rglob("*.nii.gz"))}


def require_students(world) -> None:
    """Both students were trained alike, but for the teacher, and are no parents for the next stitching."""
    models = [read_model_folder(str(f)) for f in sorted((world.results / world.host.dataset).glob("*Distilled__*"))]
    assert [m.plans_name.rpartition("_")[0] for m in models] == ["nnUNetTaughtPlans", "nnUNetUntaughtPlans"]
    records = [json.loads(Path(m.path, "fold_1", "distillation.json").read_text()) for m in models]
    assert [r.pop("weight") for r in records] == [1.0, 0.0]
    assert [r.pop("taught_by") for r in records] == ["a stitched ensemble", "labels alone"]
    assert [[p["dataset"] for p in r.pop("partners")] for r in records] == [[world.partner.dataset], []]
    assert records[0] == records[1]
    assert all(m.is_baseline and m.folds == (0, 1) for m in models)
    taught, untaught = (load_checkpoint(m.checkpoint_path(1))["network_weights"] for m in models)
    assert any((taught[k] != untaught[k]).any() for k in taught)


@pytest.mark.slow
def test_all_rows_on_two_folds_then_again(world):
    parents = stitched_model.tree(world.model(world.host), world.model(world.partner))
    result = run(world, rows=[*HERE, "soup"])
    assert stitched_model.tree(world.model(world.host), world.model(world.partner)) == parents
    assert result.skipped == {"weight average": "the two networks differ"}
    comparison = result.comparison
    assert [r.name for r in ROWS if r.key in HERE] == [name.split(", alpha")[0] for name in comparison.model_names]
    assert (comparison.host, comparison.own) == ("A alone", world.host.dataset)
    assert comparison.parties == [world.host.dataset, world.partner.dataset]
    for folders in comparison.predictions.values():
        for party in comparison.parties:
            assert len(list(Path(folders[party]).glob("*.nii.gz"))) == 3
    notes = {m.name: m.note for m in comparison.models}
    assert notes["pooled data"] == SHARES_DATA and not notes["stitched, rule 2"]
    assert result.details["stitched everywhere"] == "6 active stitches"
    assert "as deployed, position" in result.details["distilled student"]
    assert result.details["untaught student"] == "1 epochs from A's weights"
    made = files(result.folder)
    require_students(world)

    # What each row is, against other ways of predicting it.
    def same(row, other):
        a, b = (files(Path(comparison.predictions[r][world.host.dataset]).parent) for r in (row, other))
        return a == b
    assert not same("A alone", "B alone") and not same("A alone", "plain ensemble")
    from nnunetv2_stitch.inference.predictor import StitchedPredictor
    predictor = StitchedPredictor(device=__import__("torch").device("cpu"), use_mirroring=False, allow_tqdm=False,
                                  perform_everything_on_device=False)
    model = next((world.results / world.host.dataset).glob("nnUNetTrainerStitch__nnUNetStitchPlans_*__2d"))
    predictor.initialize_from_trained_model_folder(str(model), mode="stitched")
    for mode, row in (("stitched", "stitched, rule 2"), ("ensemble", "plain ensemble")):
        predictor.set_mode(mode)
        out = Path(result.folder) / "check" / mode
        predictor.predict_from_files_sequential(str(world.test_images(world.partner)), str(out))
        stitched_model.assert_equal_voxels(out, Path(comparison.predictions[row][world.partner.dataset]), 3)

    said = []
    again = run(world, rows=[*HERE, "soup"], resume=True, say=said.append)
    assert repr(again.comparison.to_json()) == repr(comparison.to_json())  # NaN is not equal to itself
    assert (again.details, again.skipped) == (result.details, result.skipped)
    assert sum(line.endswith("done before") for line in said) == len(HERE)
    assert {k: v for k, v in files(result.folder).items() if not k.startswith("check")} == made


@pytest.mark.slow
def test_interrupted_comparison_goes_on_where_it_was(world, monkeypatch):
    from nnunetv2_stitch.baselines import compare as module
    rows = ["A_alone", "B_alone", "plain_ensemble"]
    original, calls = module._predictor, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(module, "_predictor", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(world, rows=rows, folds=[0])
    with pytest.raises(StitchError, match="add --c to go on"):
        run(world, rows=rows, folds=[0])
    with pytest.raises(StitchError, match="other folds"):
        run(world, rows=rows, resume=True)
    result = run(world, rows=rows, folds=[0], resume=True)
    assert result.comparison.model_names == ["A alone", "B alone", "plain ensemble"]
    assert len(calls) == 4  # A once; B, interrupted before it began, again; the ensemble


@pytest.mark.slow
def test_a_deployed_model_is_compared_and_not_deployed_anew(world):
    deployed = train_stitch(world.host.dataset, world.partner.dataset, device="cpu", progress=False, folds=[0],
                            epochs=1, iterations=2, positions=[2, 20, 41], rule="3", position=41)
    before = stitched_model.tree(Path(deployed.model_folder))
    result = run(world, rows=["stitched", "stitched_rule3"], folds=[0])
    assert stitched_model.tree(Path(deployed.model_folder)) == before
    assert "65%" in result.details["stitched, rule 3"]


def test_bad_input_writes_nothing(world, tmp_path):
    before = sorted(world.root.rglob("*"))
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    for arguments, message in (({"rows": ["stiched"]}, "there is no row stiched; choose among A_alone"),
                               ({"folder": str(tmp_path / "used")}, "not empty and holds no comparison"),
                               ({"test_sets": {"X": str(tmp_path)}}, "holds no test cases"),
                               ({"folds": [4]}, "of fold 4")):
        with pytest.raises(StitchError, match=message):
            run(world, **arguments)
    assert sorted(world.root.rglob("*")) == before


def test_files_that_a_row_cannot_read_are_found_before_anything_is_trained(world):
    """The kind: nnU-Net says of a folder without files of a model's ending that there are 0 cases, and goes on; so
    what every model is to predict is looked at first."""
    before = sorted(world.root.rglob("*"))

    def refused(message) -> None:
        with pytest.raises(StitchError, match=message):
            run(world, rows=["B_alone"], folds=[0])
        assert sorted(world.root.rglob("*")) == before

    description = world.model(world.partner) / "dataset.json"
    text = description.read_text()
    description.write_text(text.replace(".nii.gz", ".png"))
    refused("reads .nii.gz files, .* .png, and a comparison predicts every test set with both")
    description.write_text(text)
    images = world.raw / world.partner.dataset / "imagesTs"
    image = min(images.iterdir())
    image.rename(image.with_name(image.name.replace(".nii.gz", ".nrrd")))
    before = sorted(world.root.rglob("*"))
    refused(f"case .* of dataset {world.partner.dataset} has no image")


@pytest.mark.slow
def test_rows_that_need_the_partners_images_are_left_out_without_them(world):
    data = world.preprocessed / world.partner.dataset / f"{worlds.PLANS}_2d"
    data.rename(data.with_name("elsewhere"))
    result = run(world, rows=["finetuned_A_on_B", "pooled"], folds=[0])
    assert result.comparison.model_names == ["A alone"]
    assert all("are not preprocessed here" in reason for reason in result.skipped.values())
    assert set(result.skipped) == {"A fine-tuned on B", "pooled data"}
    assert json.loads((Path(result.folder) / "compare_state.json").read_text())["rows"].keys() == {"A_alone"}


@pytest.mark.slow
def test_federated_row(world):
    result = run(world, rows=["federated"], folds=[0])
    assert result.comparison.model_names == ["A alone", "federated (FedAvg)"] and not result.skipped
    assert result.details["federated (FedAvg)"] == "1 rounds, one epoch of each party per round"
    model = read_model_folder(str(next((world.results / world.host.dataset).glob("nnUNetTrainerFedAvg__*"))))
    assert model.is_baseline and model.folds == (0,)
