"""Installing and unpacking zips that are as they should be: names, ids, several models, interruptions."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from exchange.zips import everything_below
from hypothesis import given
from hypothesis import strategies as st

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.exchange import install as installing
from nnunetv2_stitch.exchange.install import install_party, unpack_party
from nnunetv2_stitch.exchange.manifest import Manifest
from nnunetv2_stitch.exchange.parents import require_different
from nnunetv2_stitch.exchange.zips import _reason_against_name
from nnunetv2_stitch.parties.untrusted_json import NAME, require_modest

IDENTIFIER = "nnUNetTrainer__nnUNetPlans__2d"


def stock_zip(path, *folders, base=None):
    """Model folders zipped as nnUNetv2_export_model_to_zip does it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for folder in folders:
            for file in sorted(folder.rglob("*")):
                archive.write(file, file.relative_to(base or folder.parent.parent))
    return path


def test_round_trip_gives_back_every_tensor(party_zip, sender, results, install):
    said = install(party_zip, "-as", "SiteB")
    folder = results / "Dataset999_SiteB" / IDENTIFIER
    assert said.rstrip().endswith("nnUNetv2_train_stitch HOST Dataset999_SiteB -c 2d") and "CC BY 4.0" in said
    for fold in (0, 1):
        before, after = (torch.load(f / f"fold_{fold}" / "checkpoint_final.pth", weights_only=False)
                         for f in (sender, folder))
        assert list(before["network_weights"]) == list(after["network_weights"])
        assert all(torch.equal(v, after["network_weights"][k]) for k, v in before["network_weights"].items())
        assert after["inference_allowed_mirroring_axes"] == (0, 1) and after["current_epoch"] == 7
    assert sorted(everything_below(folder)) == sorted([
        "MODEL_CARD.md", "dataset.json", "fold_0", "fold_0/checkpoint_final.pth", "fold_1",
        "fold_1/checkpoint_final.pth", "party.json", "plans.json"])
    assert json.loads((folder / "plans.json").read_text())["dataset_name"] == "Dataset999_SiteB"
    party = json.loads((folder / "party.json").read_text())
    assert party["name"] == "SiteB" and party["received_as"]["dataset"] == "Dataset999_SiteB"
    assert [f["dice"]["b"] for f in party["folds"]] == [0.5, 0.6]
    assert Manifest.from_json(party).licence == "CC BY 4.0"


def test_ids_count_down_and_skip_what_is_taken_anywhere(party_zip, results, install, tmp_path, monkeypatch):
    for variable, taken in (("nnUNet_raw", "Dataset999_X"), ("nnUNet_preprocessed", "Dataset998_Y")):
        (tmp_path / variable / taken).mkdir(parents=True)
        monkeypatch.setenv(variable, str(tmp_path / variable))
    assert "installed as" not in (said := install(party_zip, "-as", "SiteB")) and "Dataset997_SiteB" in said
    (results / "Dataset500_Odd" / next((results / "Dataset997_SiteB").iterdir()).name).mkdir(parents=True)
    next((results / "Dataset500_Odd").iterdir()).joinpath("party.json").write_text("[]")
    said = install(party_zip, "-as", "SiteB")
    assert "Dataset996_SiteB" in said and "the same file is installed as Dataset997_SiteB too;" in said
    assert "Dataset005_Own" in (said := install(party_zip, "-as", "Dataset005_Own"))
    assert "as Dataset996_SiteB and Dataset997_SiteB too;" in said
    for alias, place in (("Dataset999_Other", "nnUNet_raw"), ("Dataset998_Other", "nnUNet_preprocessed"),
                         ("Dataset997_Other", "results"), ("Dataset005_Own", "results")):
        with pytest.raises(StitchError, match=f"is taken by .*{place}"):
            install_party(str(party_zip), alias)


def test_two_parties_with_one_dataset_name(party_zip, sender, results):
    first, second = (install_party(str(z), alias) for z, alias in ((party_zip, "SiteB"), (party_zip, "SiteC")))
    assert {first.dataset_name, second.dataset_name} == {"Dataset999_SiteB", "Dataset998_SiteC"}
    assert first.path != second.path and first.folds == second.folds == (0, 1)
    require_different((first, second), ({0: 0}, {0: 1}))
    with pytest.raises(StitchError, match="two parties are one model"):  # of one hospital, which would count twice
        require_different((first, second), ({0: 0}, {0: 0}))


@pytest.mark.parametrize("alias", ["", "a b", "../x", "Dataset1_X", "Dataset", "dataset005_x", "Dataset005", "a__b",
                                   ".x", "a/b", "Dataset0005_X", "\x1b[2J", "x" * 200])
def test_names_that_are_none(alias, party_zip, results):
    with pytest.raises(StitchError, match="-as"):
        install_party(str(party_zip), alias)
    assert everything_below(results) == {}


def test_folder_for_results(party_zip, tmp_path, monkeypatch):
    monkeypatch.delenv("nnUNet_results", raising=False)
    with pytest.raises(StitchError, match="nnUNet_results is not set"):
        install_party(str(party_zip), "SiteB")
    with pytest.raises(StitchError, match="nowhere does not exist"):
        install_party(str(party_zip), "SiteB", results=str(tmp_path / "nowhere"))
    (tmp_path / "here").mkdir()
    assert install_party(str(party_zip), "SiteB", results=str(tmp_path / "here")).dataset_name == "Dataset999_SiteB"


def test_stock_zip_is_cleaned(sender, results, tmp_path, install):
    said = install(stock_zip(tmp_path / "stock.zip", sender), "-as", "SiteB")
    folder = results / "Dataset999_SiteB" / IDENTIFIER
    assert "left in the zip:" in said and "dataset_fingerprint.json" in said and "licence: not said" in said
    assert len(everything_below(folder)) == 8
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert not any(s in data for s in (b"patient_0815", b"secret-host-name", b"/home/doctor", b"31337"))
    party = json.loads((folder / "party.json").read_text())
    assert party["name"] == "Dataset007_Mueller" and party["folds"][0]["mirroring_axes"] == [0, 1]


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_model_folder_zipped_by_hand(depth, sender, results, tmp_path):
    base = [sender.parent, sender.parent.parent, sender.parent.parent.parent][depth]
    assert install_party(str(stock_zip(tmp_path / "z.zip", sender, base=base)), "SiteB").folds == (0, 1)


def test_installed_model_zipped_by_hand_and_exported_again(party_zip, results, tmp_path, install, export):
    install(party_zip, "-as", "SiteB")
    folder = results / "Dataset999_SiteB" / IDENTIFIER
    assert "CC BY 4.0" in install(stock_zip(tmp_path / "again.zip", folder), "-as", "SiteC")
    export("-m", folder, "-o", tmp_path / "export.zip", "-name", "SiteB")
    party, sent = (json.loads(zipfile.ZipFile(z).read("party.json")) for z in (party_zip, tmp_path / "export.zip"))
    assert sent == party  # licence, contact, Dice and versions are passed on


def test_several_models_in_one_zip(sender, results, tmp_path, refused, install):
    other = Path(shutil.copytree(sender, tmp_path / sender.parent.name / "nnUNetTrainerX__nnUNetPlans__2d"))
    path = stock_zip(tmp_path / "two.zip", sender, other)
    said = refused(path)
    assert "holds 2 models" in said and "nnUNetTrainerX__nnUNetPlans__2d" in said and "choose one with -m" in said
    assert "choose one with -m" in refused(path, "-m", "typo")
    install(path, "-as", "SiteB", "-m", other.name)
    install(path, "-as", "SiteC", "-m", f"Dataset007_Mueller/{sender.name}")
    assert {p.parent.name for p in results.rglob("plans.json")} == {other.name, sender.name}


def test_checkpoint_of_another_name(sender, results, tmp_path, refused, install):
    copy = Path(shutil.copytree(sender, tmp_path / sender.parent.name / sender.name))
    for fold in (0, 1):
        (copy / f"fold_{fold}" / "checkpoint_final.pth").rename(copy / f"fold_{fold}" / "checkpoint_best.pth")
    path = stock_zip(tmp_path / "best.zip", copy)
    assert "fold_*/checkpoint_final.pth" in refused(path)
    install(path, "-as", "SiteB", "-chk", "checkpoint_best.pth")
    assert list(results.rglob("fold_1/checkpoint_final.pth"))


def test_unpacking_into_a_folder(party_zip, tmp_path):
    folder = tmp_path / "new" / "deeper"
    model = unpack_party(str(party_zip), str(folder))
    assert Path(model.path) == folder / IDENTIFIER and model.dataset_name == "SiteB" and model.folds == (0, 1)
    assert [p.name for p in folder.iterdir()] == [IDENTIFIER]
    with pytest.raises(StitchError, match="exists already"):
        unpack_party(str(party_zip), str(folder))
    assert [p.name for p in folder.iterdir()] == [IDENTIFIER]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, StitchError("no"), OSError(28, "full", "x")])
@pytest.mark.parametrize("step", ["_write_fold", "_write_manifest", "_move"])
def test_interruption_leaves_nothing(step, error, party_zip, results, tmp_path, monkeypatch):
    def stop(*arguments):
        raise error
    monkeypatch.setattr(installing, step, stop)
    for call in (lambda: install_party(str(party_zip), "SiteB"),
                 lambda: unpack_party(str(party_zip), str(tmp_path / "new" / "deeper"))):
        with pytest.raises(BaseException):  # noqa: B017
            call()
    assert everything_below(results) == {} and not (tmp_path / "new").exists()


@given(st.text(max_size=40))
def test_names_that_pass_stay_inside(name):
    if _reason_against_name(name) is None:
        inside = Path("/root/folder")
        assert inside in (inside / name).resolve().parents and "\x1b" not in name
    if NAME.fullmatch(name):
        assert "/" not in name and "__" not in name and ".." not in name and name.isprintable()


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20))
def test_any_json_is_read_or_refused_as_party(value):
    for attempt in (value, {"format": "nnunetv2-stitch party", "format_version": 1, "folds": value, "name": "x"}):
        for read in (lambda v: require_modest(v, "x"), Manifest.from_json):
            try:
                read(attempt)
            except StitchError as error:
                assert "\n" not in str(error)
