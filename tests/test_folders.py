"""Every listing of a folder passes over what is not meant: other people's copies, and what systems leave behind."""

import json

import pytest

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.folders import (
    files_in,
    folds_in,
    image_files,
    model_folders_in,
    names_in,
    require_plans_name,
)


def test_names_and_files(tmp_path):
    for name in ("b.json", "a.json", "._a.json", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (tmp_path / name).touch()
    for name in ("c.json", "__MACOSX", "@eaDir"):
        (tmp_path / name).mkdir()
    assert names_in(str(tmp_path)) == ["a.json", "b.json", "c.json"]
    assert files_in(str(tmp_path), ".json") == ["a.json", "b.json"]


def test_folds_are_named_exactly_so(tmp_path):
    for name in ("fold_10", "fold_2", "fold_all", "fold_0_old", "fold_00", "fold_", "fold_x", "old_fold_1", ".fold_3"):
        (tmp_path / name).mkdir()
    (tmp_path / "fold_4").touch()
    assert folds_in(str(tmp_path)) == [2, 10, "all"]
    (tmp_path / "fold_2" / "checkpoint_final.pth").touch()
    (tmp_path / "fold_0_old" / "checkpoint_final.pth").touch()
    assert folds_in(str(tmp_path), "checkpoint_final.pth") == [2]


def test_models_are_those_whose_plans_know_the_configuration(tmp_path):
    for name in ("T__P__2d", "T__P__2d_old", "T__P__3d_fullres", "T__P", "ensembles", ".T__P__2d", "T____2d"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "plans.json").write_text(json.dumps({"configurations": {"2d": {}}}))
    (tmp_path / "T__P__2d.zip").touch()
    assert model_folders_in(str(tmp_path)) == [str(tmp_path / "T__P__2d")]
    for text in ("{", "[]", "{}"):  # said by whoever wants this model, and by nobody else
        (tmp_path / "T__P__2d" / "plans.json").write_text(text)
        assert model_folders_in(str(tmp_path)) == [str(tmp_path / "T__P__2d")]


def test_cases_come_in_the_order_of_their_names_as_nnunets(tmp_path):
    """nnU-Net deals cases out to processes in this order (-num_parts), not in that of the files' names."""
    from nnunetv2.utilities.utils import create_lists_from_splitted_dataset_folder

    for name in ("a-b_0000.png", "a_0001.png", "a_0000.png", "a_b_0000.png"):
        (tmp_path / name).touch()
    found = list(image_files(str(tmp_path), ".png").values())
    assert found == create_lists_from_splitted_dataset_folder(str(tmp_path), ".png", num_processes=1)
    assert list(image_files(str(tmp_path), ".png")) == ["a", "a-b", "a_b"]


@pytest.mark.parametrize("name", ["", "a__b", "../x", "a/b", "a\\b", "..", ".a", "a b", "a:b", "_a", "a_", "-a",
                                  "a\n", "\u00fc"])
def test_plans_get_no_name_that_leads_elsewhere_or_splits_otherwise(name):
    with pytest.raises(StitchError, match="-o_p .*: give a name of letters, digits") as caught:
        require_plans_name(name)
    assert "\n" not in str(caught.value)


def test_plans_may_be_called_as_nnunets_users_call_them():
    for name in ("nnUNetPlans", "nnUNetResEncUNetLPlans", "v1.2-b_c", "7"):
        require_plans_name(name)
