"""nnUNetv2_adapt_party: bad input is one line on stderr, exit code 2, and nothing written."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from model_folders import centre, edit, make_model, results  # noqa: F401 -- fixtures
from partner_site import command, refused
from stitched_model import tree

from nnunetv2_stitch.bridging.names import NameMaps
from nnunetv2_stitch.entrypoints import adapt_party
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.exchange.parents import Partner
from nnunetv2_stitch.fileio import read_json, write_json
from nnunetv2_stitch.training.adapt_job import AdaptRequest, prepare
from nnunetv2_stitch.training.folds import claimed
from nnunetv2_stitch.training.records import without_records


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
    (["1", "2", "-m_b", "X"], "give the host's dataset DATASET_A, and one partner; found 1, 2, -m_b X"),
    (["1"], "give the partner, by a second dataset DATASET_B or with -m_b ZIP_OR_FOLDER; found 1"),
    (["1", "2", "3"], "and one partner; found 1, 2, 3"), ([], "DATASET_A and the partner, by a second dataset"),
    (["-m_b", "X"], "give the host's dataset DATASET_A; found -m_b X"),
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
    assert ask(tolerance=3.).record.terms() == job.record.terms()  # it is chosen afterwards
    for changed, said in (({"rate": 0.1}, "-lr 0.001"), ({"epochs": 1}, "-epochs 100"), ({"seed": 1}, "-seed 12345")):
        with pytest.raises(Exception, match=f"was begun with {said}; go on with the same, or use -o_p NAME"):
            ask(**changed)
    moved = shutil.move(given["model"], given["model"].with_name("Moved__nnUNetPlans__2d"))
    given["model"] = Path(moved)
    assert ask().record.model.endswith("Moved__nnUNetPlans__2d"), "a model is known by its sha256, wherever it lies"


def test_what_is_left_open_goes_on_as_it_was_asked_for(given):
    """The kind: a continuation that wants what it was begun with to be typed again, or takes a default in its place."""
    name = {"prostate": None}
    given["edit"](given["model"] / "dataset.json", lambda d: d.update(labels={"background": 0, "a": 1, "prostate": 2}))
    for fold in (1, 2):
        shutil.copytree(given["model"] / "fold_0", given["model"] / f"fold_{fold}")
    partner = Partner(model=str(given["model"]), fold=2, names=NameMaps(name, {}))
    begun = prepare(AdaptRequest(1, partner, folds=[0, 1], epochs=3, iterations=5, rate=1e-2, alpha=None, tolerance=2.,
                                 seed=7))
    assert begun.record.of_fold(0)["fold"] == "2" and begun.record.outputs == [[0], [1], []]
    with pytest.raises(KeyboardInterrupt), claimed(begun, False, before=interrupted):
        pass  # while the images are preprocessed, say
    left = Partner(model=str(given["model"]))
    on = prepare(AdaptRequest(1, left), True)
    assert (on.record, on.folds, on.request) == (begun.record, [0, 1], replace(begun.request, configuration="2d"))
    assert on.request.alpha is None
    # Only what is given and differs is refused, and what only chooses is taken.
    with pytest.raises(StitchError, match=r"was begun with -epochs 3; go on with the same"):
        prepare(AdaptRequest(1, left, epochs=100), True)
    with pytest.raises(StitchError, match="was begun with another checkpoint of the partner"):
        prepare(AdaptRequest(1, replace(left, fold=1)), True)
    again = prepare(AdaptRequest(1, left, alpha=0.5), True)
    assert (again.request.alpha, again.request.tolerance, again.record.terms()) == (0.5, 2., begun.record.terms())
    with pytest.raises(StitchError, match="already holds fold 0; add --c"):
        prepare(replace(begun.request, folds=[0]))
    other = prepare(AdaptRequest(1, left, plans_name="Other", folds=[0]), True)
    assert other.record.num_epochs == 100 and other.record.of_fold(0)["fold"] == "0"
    # What the terms say of this machine, or of whoever typed them, does not travel.
    assert "asked" not in begun.record.terms() and "asked" not in str(without_records(begun.plans))


@pytest.mark.parametrize("flags", [[], ["--dry_run"]])
def test_what_is_read_last_is_read_before_the_training_too(flags, given, make_model, capsys):  # noqa: F811
    """The kind: a file that a job needs only at its end is found broken there, after all the training. The host's own
    model is measured last; a fold of it that takes no part may be broken."""
    host = make_model("Dataset001_Centre", folds=(0, 1))
    job = prepare(AdaptRequest(1, Partner(model=str(given["model"])), folds=[1]))
    assert job.host.path == str(host)
    checkpoint = host / "fold_0" / "checkpoint_final.pth"
    checkpoint.write_bytes(checkpoint.read_bytes()[:5000])
    prepare(AdaptRequest(1, Partner(model=str(given["model"])), folds=[1]))
    told = refused(given["results"].parent, capsys, adapt_party, 1, "-m_b", given["model"], *flags)
    assert f"{checkpoint} is cut short at 5000 bytes" in told
    # Of a fold that an earlier command trained too: all folds have one alpha.
    write_json(job.plans_file, job.plans)
    (Path(job.fold_folder(0))).mkdir(parents=True)
    (Path(job.fold_folder(0)) / "checkpoint_final.pth").write_bytes(b"")
    told = refused(given["results"].parent, capsys, adapt_party, 1, "-m_b", given["model"], "-f", 1, *flags)
    assert f"{checkpoint} is cut short" in told


def interrupted(job) -> None:
    raise KeyboardInterrupt


def test_where_nothing_can_be_begun_nothing_is_left(given):
    def failing(job) -> None:
        assert Path(job.fold_folder(0)).is_dir() and Path(job.plans_file).is_file()
        raise StitchError("these images cannot be preprocessed")

    job, root = prepare(AdaptRequest(1, Partner(model=str(given["model"])), folds=[0, 1])), given["results"].parent
    before = tree(root), sorted(root.rglob("*"))
    with pytest.raises(StitchError, match="cannot be preprocessed"), claimed(job, False, before=failing):
        pass
    assert (tree(root), sorted(root.rglob("*"))) == before


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
