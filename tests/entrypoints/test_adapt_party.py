"""nnUNetv2_adapt_party: bad input is one line on stderr, exit code 2, and nothing written."""

import shutil
from pathlib import Path

import pytest
import torch
from model_folders import centre, edit, make_model, results  # noqa: F401 -- fixtures
from partner_site import command, refused

from nnunetv2_stitch.entrypoints import adapt_party
from nnunetv2_stitch.exchange.parents import Partner
from nnunetv2_stitch.fileio import read_json, write_json
from nnunetv2_stitch.training.adapt_job import AdaptRequest, prepare


@pytest.fixture
def given(make_model, results, centre, edit):  # noqa: F811
    """The partner's model of one fold, and the host's preprocessed dataset."""
    (centre / "dataset_fingerprint.json").write_text("{}")
    model = make_model("Dataset911_Partner", folds=(0,))
    return {"model": model, "host": centre, "results": results, "edit": edit,
            "checkpoint": model / "fold_0" / "checkpoint_final.pth"}


def change_dataset(**fields):
    return lambda f: f["edit"](f["host"] / "dataset.json", lambda d: d.update(fields))


def change_plans(**fields):
    return lambda f: f["edit"](f["model"] / "plans.json", lambda p: p["configurations"]["2d"].update(fields))


BAD = {
    "no model": (["-m_b", "nowhere"], "nowhere does not exist", None),
    "name": (["-o_p", "a__b"], "double underscore", None),
    "place": (["-o_p", "../x"], "-o_p '../x': give a name of letters", None),
    "configuration": (["-c", "3d_fullres"], "is of configuration 2d, not 3d_fullres", None),
    "fold of the partner": (["-f_b", "3"], "has no checkpoint_final.pth of fold 3", None),
    "label map": (["-label_map", "no.json"], "no.json does not exist", None),
    "taken name": (["-o_p", "nnUNetPlans"], "holds other plans, not of an adapted partner", None),
    "trainer of A": (["-tr_a", "Another"], "no models of dataset Dataset001_Centre", None),
    "no raw images": ([], "must be preprocessed as the partner's plans say, and its images are not in nnUNet_raw",
                      change_plans(normalization_schemes=["CTNormalization"])),
    "channels": ([], "needs channel MRI, which the host lacks (it has CT)", change_dataset(channel_names={"0": "CT"})),
    "labels": ([], "has the name of one of the host's", change_dataset(labels={"background": 0, "liver": 1})),
    "regions": ([], "is trained on regions and", change_dataset(
        labels={"background": 0, "a": [1, 2], "b": 2}, regions_class_order=[1, 2])),
    "code": ([], "could run code", lambda f: torch.save({"network_weights": {}, "x": Path}, f["checkpoint"])),
    "class": ([], "network_class_name 'os.system' is not allowed", lambda f: f["edit"](
        f["model"] / "plans.json",
        lambda p: p["configurations"]["2d"]["architecture"].update(network_class_name="os.system"))),
    "zip": (["-m_b", "bad.zip"], "bad.zip", lambda f: Path("bad.zip").write_bytes(b"PK\3\4 and no more")),
    "there already": ([], "already holds fold 0; add --c to go on, -o_p NAME", lambda f: (
        f["results"] / "Dataset001_Centre" / "nnUNetTrainerAdapted__nnUNetAdaptedPlans__2d" / "fold_0").mkdir(
            parents=True)),
    "another's result": ([], "was not made by this command (adapt.json is missing)", lambda f: (
        f["results"] / "Dataset001_Centre" / "nnUNetTrainer__nnUNetAdaptedPlans__2d").mkdir(parents=True)),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_writes_nothing(case, given, capsys, monkeypatch):
    monkeypatch.chdir(given["results"].parent)
    flags, said, spoil = BAD[case]
    if spoil:
        spoil(given)
    flags = ["1", "-m_b", given["model"], *flags]
    assert said in refused(given["results"].parent, capsys, adapt_party, *flags)


@pytest.mark.parametrize("arguments, said", [
    (["1", "-m_b", "X", "-lr", "0"], "is not a number above 0"),
    (["1", "-m_b", "X", "-tolerance", "-1"], "is not a number of at least 0"),
    (["1", "-m_b", "X", "-tolerance", "nan"], "is not a number of at least 0"),
    (["1", "-m_b", "X", "-alpha", "-1"], "is not a number of at least 0"),
])
def test_numbers_that_are_none(arguments, said, capsys):
    with pytest.raises(SystemExit) as caught:
        command(adapt_party, *arguments)
    assert caught.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize("arguments, said", [
    (["1", "2", "-m_b", "X"], "give DATASET_A; found 1, 2"), (["1"], "give DATASET_A and DATASET_B, or -m_b MODEL"),
    (["-m_b", "X"], "give DATASET_A; found none"),
])
def test_who_is_meant(arguments, said, capsys, tmp_path):
    assert said in refused(tmp_path, capsys, adapt_party, *arguments)


def test_a_fold_goes_on_as_it_was_begun(given):
    def ask(**changed):
        return prepare(AdaptRequest(1, Partner(model=str(given["model"])), **{"folds": [0, 1], **changed}), True)

    job = ask()
    assert job.record.of_fold(1)["fold"] == "0" and job.host is None and "no model of its own" in job.remarks[0]
    write_json(job.plans_file, job.plans)
    Path(job.fold_folder(0)).mkdir(parents=True)
    assert ask(folds=[1]).record.folds.keys() == {"0", "1"}
    assert ask(tolerance=3.).record == job.record  # it is chosen afterwards
    for changed, said in (({"rate": 0.1}, "-lr 0.001"), ({"epochs": 1}, "-epochs 100"), ({"seed": 1}, "-seed 12345")):
        with pytest.raises(Exception, match=f"was begun with {said}; go on with the same, or use -o_p NAME"):
            ask(**changed)
    moved = shutil.move(given["model"], given["model"].with_name("Moved__nnUNetPlans__2d"))
    given["model"] = Path(moved)
    assert ask().record.model.endswith("Moved__nnUNetPlans__2d"), "a model is known by its sha256, wherever it lies"


def test_a_channel_that_only_the_host_has_is_normalised_as_nnunet_plans_it(given):
    given["edit"](given["host"] / "dataset.json", lambda d: d.update(channel_names={"0": "CT", "1": "MRI"}))
    intensities = {"0": {"mean": 1.0, "std": 2.0, "percentile_00_5": 0.0, "percentile_99_5": 3.0}}
    write_json(str(given["host"] / "dataset_fingerprint.json"),
               {"foreground_intensity_properties_per_channel": intensities})
    with pytest.raises(Exception, match="its images are not in nnUNet_raw"):
        prepare(AdaptRequest(1, Partner(model=str(given["model"]))))
    from nnunetv2_stitch.parties.model_folder import read_model_folder
    from nnunetv2_stitch.training.adapt_plans import adapted_plans
    dataset_json = read_json(str(given["host"] / "dataset.json"))
    plans = adapted_plans(read_model_folder(str(given["model"])), str(given["host"]), dataset_json, [None, 0], "X")
    assert plans["configurations"]["2d"]["normalization_schemes"][0] == "CTNormalization"
    assert plans["configurations"]["2d"]["normalization_schemes"][1:] == \
        read_json(str(given["model"] / "plans.json"))["configurations"]["2d"]["normalization_schemes"]
    assert plans["foreground_intensity_properties_per_channel"]["0"] == intensities["0"]
