"""One record of what a thing was made of, and one check before it is used again."""

import json

import pytest

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.provenance import RECORD_FILE, Provenance, begin, made_from

RECORD = Provenance("model", {"parents": [{0: "abc"}], "folds": (0, 1), "epochs": None})


def test_a_record_is_the_same_when_it_is_read_back(tmp_path):
    begin(str(tmp_path / "new"), RECORD)
    again = made_from(str(tmp_path / "new"))
    assert again == RECORD and again.digest == RECORD.digest and again.differences(RECORD) == []
    assert RECORD.name("nnUNetXPlans") == f"nnUNetXPlans_{RECORD.digest}" and len(RECORD.digest) == 8
    begin(str(tmp_path / "new"), RECORD)  # an interrupted making goes on


@pytest.mark.parametrize("changed", [{"folds": [0]}, {"epochs": 1}, {"parents": [{0: "abd"}]}, {"seed": 1}])
def test_whatever_differs_gives_another_name_and_is_named(changed, tmp_path):
    other = Provenance("model", {**RECORD.made_from, **changed})
    assert other.digest != RECORD.digest and RECORD.differences(other) == list(changed)
    begin(str(tmp_path / "x"), RECORD)
    with pytest.raises(StitchError, match=f"made with other {next(iter(changed))}; move it away"):
        begin(str(tmp_path / "x"), other)
    assert made_from(str(tmp_path / "x")) == RECORD


def test_a_missing_ingredient_is_not_one_that_is_null():
    assert RECORD.differences(Provenance("model", {k: v for k, v in RECORD.made_from.items() if k != "epochs"}))


def test_a_folder_without_our_record_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").touch()
    for contents in (None, [], {"made_from": 1}):
        if contents is not None:
            (tmp_path / RECORD_FILE).write_text(json.dumps(contents))
        assert made_from(str(tmp_path)) is None
        with pytest.raises(StitchError, match="was not made by this command"):
            begin(str(tmp_path), RECORD)
    assert sorted(p.name for p in tmp_path.iterdir()) == [RECORD_FILE, "notes.txt"]
