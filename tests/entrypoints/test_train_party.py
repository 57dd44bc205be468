"""nnUNetv2_train_party: bad input is one line on stderr, exit code 2, and nothing written."""

import shutil
from pathlib import Path

import pytest
import torch
from model_folders import centre, edit, make_model, results  # noqa: F401 -- fixtures
from partner_site import command, refused

from nnunetv2_stitch.entrypoints import train_party
from nnunetv2_stitch.exchange.export import export_party
from nnunetv2_stitch.fileio import read_json, write_json
from nnunetv2_stitch.parties.checkpoint import sha256
from nnunetv2_stitch.parties.model_folder import read_model_folder
from nnunetv2_stitch.training.from_merged import FromMergedRequest, prepare
from nnunetv2_stitch.training.member import read_member
from nnunetv2_stitch.training.records import below_results
from nnunetv2_stitch.training.site import find_site


@pytest.fixture
def given(make_model, results, centre, edit):  # noqa: F811
    """The merged model of one fold, and a party's dataset that is preprocessed with its plans."""
    (centre / "dataset_fingerprint.json").write_text("{}")
    model = make_model("Dataset911_Merged", folds=(0,))
    return {"model": model, "party": centre, "results": results, "edit": edit,
            "checkpoint": model / "fold_0" / "checkpoint_final.pth"}


def spoil_weights(f, change):
    weights = torch.load(f["checkpoint"])["network_weights"]
    change(weights)
    torch.save({"network_weights": weights}, f["checkpoint"])


BAD = {
    "no model": (["-m", "nowhere"], "nowhere does not exist", None),
    "name": (["-o_p", "a__b"], "double underscore", None),
    "place": (["-o_p", "../x"], "-o_p '../x': give a name of letters", None),
    "dataset": (["-d", "7"], "dataset 7 in nnUNet_preprocessed", None),
    "configuration": (["-c", "3d_fullres"], "is of configuration 2d, not 3d_fullres", None),
    "no cases": ([], "holds no preprocessed cases", lambda f: [
        p.unlink() for p in (f["party"] / "nnUNetPlans_2d").iterdir()]),
    "references": ([], "gt_segmentations does not exist; nnU-Net wants it for validation", lambda f: shutil.rmtree(
        f["party"] / "gt_segmentations")),
    "reference": ([], "b.nii.gz does not exist; nnU-Net wants it for validation", lambda f: (
        f["party"] / "gt_segmentations" / "b.nii.gz").unlink()),
    "case of the splits": ([], "case a of fold 0 in", lambda f: (f["party"] / "nnUNetPlans_2d" / "a.b2nd").unlink()),
    "no validation cases": ([], "fold 0 has no validation cases", lambda f: write_json(
        str(f["party"] / "splits_final.json"), [{"train": ["a", "b"], "val": []}])),
    "too few cases": ([], "holds 2 cases, too few for the 5 folds", lambda f: (
        f["party"] / "splits_final.json").unlink()),
    "plans": (["-p", "Others"], "Others.json does not exist: the party's data must be preprocessed with the models' "
              "plans; see nnUNetv2_move_plans_between_datasets and nnUNetv2_preprocess, or name the plans with -p; "
              "there are: nnUNetPlans", None),
    "taken name": (["-o_p", "nnUNetPlans"], "holds other plans, not of a training from a merged model", None),
    "no fold": ([], "no fold with checkpoint_final.pth", lambda f: f["checkpoint"].unlink()),
    "spacing": ([], "preprocess the party's data with the models' plans", lambda f: f["edit"](
        f["party"] / "nnUNetPlans.json", lambda p: p["configurations"]["2d"].update(spacing=[1.0, 1.0]))),
    "channels": ([], "channels is ['CT']", lambda f: f["edit"](
        f["party"] / "dataset.json", lambda d: d.update(channel_names={"0": "CT"}))),
    "labels": ([], "labels are background, b, a, which are not those of", lambda f: f["edit"](
        f["party"] / "dataset.json", lambda d: d.update(labels={"background": 0, "b": 1, "a": 2}))),
    "no data": ([], "nnUNetPlans_2d does not exist", lambda f: shutil.rmtree(f["party"] / "nnUNetPlans_2d")),
    "fingerprint": ([], "nnUNetv2_extract_fingerprint", lambda f: (f["party"] / "dataset_fingerprint.json").unlink()),
    "code": ([], "could run code", lambda f: torch.save({"network_weights": {}, "x": Path}, f["checkpoint"])),
    "class": ([], "network_class_name 'os.system' is not allowed", lambda f: f["edit"](
        f["model"] / "plans.json",
        lambda p: p["configurations"]["2d"]["architecture"].update(network_class_name="os.system"))),
    "other network": ([], "lacks tensor", lambda f: spoil_weights(f, lambda w: w.pop(next(iter(w))))),
    "diverged": ([], "NaN or infinity", lambda f: spoil_weights(f, lambda w: w[next(iter(w))].fill_(float("nan")))),
    "there already": ([], "already holds fold 0; add --c to go on, -o_p NAME", lambda f: (
        f["results"] / "Dataset001_Centre" / "nnUNetTrainerFromMerged__nnUNetFromMergedPlans__2d" / "fold_0").mkdir(
            parents=True)),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_writes_nothing(case, given, capsys):
    flags, said, spoil = BAD[case]
    if spoil:
        spoil(given)
    chosen = {"-m": str(given["model"]), "-d": "1", **dict(zip(flags[::2], flags[1::2]))}
    folder = given["results"].parent
    assert said in refused(folder, capsys, train_party, *(x for k, v in chosen.items() for x in (k, v)))


@pytest.mark.parametrize("value", ("0", "-1", "nan", "much"))
def test_learning_rates_that_are_none(value, capsys):
    with pytest.raises(SystemExit) as caught:
        command(train_party, "-m", "X", "-d", "1", "-lr", value)
    assert caught.value.code == 2 and "is not a number above 0" in capsys.readouterr().err


def test_the_plans_name_a_zips_checkpoint_where_it_stays(given, tmp_path):
    zipped = str(tmp_path / "merged.zip")
    export_party(read_model_folder(str(given["model"])), zipped)
    job = prepare(FromMergedRequest(zipped, 1, plans_name="Round1", epochs=7, rate=0.5))
    assert not (given["party"] / "Round1.json").exists()
    Path(zipped).unlink()
    record = job.record
    assert record.model.startswith("stitch_parties/") and record.checkpoint(0).startswith(str(given["results"]))
    assert sha256(record.checkpoint(0)) == record.of_fold(0)["sha256"]
    assert (record.num_epochs, record.num_iterations_per_epoch, record.learning_rate) == (7, None, 0.5)
    before, written = read_json(given["party"] / "nnUNetPlans.json"), job.plans
    configuration = {**written["configurations"]["2d"]}
    assert configuration.pop("from_merged") == record.to_json()
    assert configuration == before["configurations"]["2d"] and written["plans_name"] == "Round1"
    # Such plans may serve for the next merge or round, whose plans and models do not inherit the record.
    write_json(job.plans_file, written)
    member = read_member(read_model_folder(below_results(record.model)), 0, "merged")
    assert "from_merged" not in str(find_site(1, "2d", 0, [member], "Merged", "Round1").plans)


def test_a_fold_goes_on_as_it_was_begun(given):
    def ask(**changed):
        return prepare(FromMergedRequest(str(given["model"]), 1, **{"folds": [0, 1], **changed}), True)

    job = ask()
    assert job.record.of_fold(1)["fold"] == "0"
    write_json(job.plans_file, job.plans)
    Path(job.fold_folder(0)).mkdir(parents=True)
    assert ask(folds=[1]).record.folds.keys() == {"0", "1"}
    for changed, said in (({"rate": 0.1}, "-lr 0.001"), ({"epochs": 1}, "-epochs 100"),
                          ({"iterations": 1}, "-iterations its default"), ({"seed": 1}, "-seed 12345")):
        with pytest.raises(Exception, match=f"was begun with {said}; go on with the same, or use -o_p NAME"):
            ask(**changed)
    begun = ask(plans_name="Other", epochs=3, iterations=5, rate=0.1, seed=7, data_plans="nnUNetPlans")
    write_json(begun.plans_file, begun.plans)
    Path(begun.fold_folder(0)).mkdir(parents=True)
    on = prepare(FromMergedRequest(str(given["model"]), 1, plans_name="Other"), True)  # all else is left open
    assert on.record == begun.record and on.record.asked["data_plans"] == "nnUNetPlans" and on.folds == [0, 1]
    spoil_weights(given, lambda w: next(iter(w.values())).add_(1))
    with pytest.raises(Exception, match="was begun with another checkpoint of the merged model"):
        ask()
