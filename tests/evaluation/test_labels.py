import pytest

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.evaluation.labels import FOREGROUND, Labels, agree, read_labels

PLAIN = {"background": 0, "a": 1, "b": 2}


def labels(**values):
    return Labels.from_json({"background": 0, **values})


def test_there_and_back():
    for value in (PLAIN, {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}):
        assert Labels.from_json(value).to_json() == value
    assert labels(a=1, b=2).rows == ("a", "b", FOREGROUND) and labels(a=1, b=2).main == FOREGROUND
    assert labels(a=1).rows == ("a",) and labels(a=1).main == "a"


def test_agreement_is_by_value_and_the_first_name_counts():
    found = agree([("model x", labels(a=1, b=2)), ("model y", labels(a=1, other=2))], [])
    assert found.labels == labels(a=1, b=2)
    assert len(found.remarks) == 1 and "called b by model x and other by model y" in found.remarks[0]


def test_a_label_that_a_model_lacks():
    found = agree([("model x", labels(a=1, b=2)), ("model y", labels(a=1))], [("dataset A", labels(a=1, b=2, c=3))])
    assert list(found.labels.regions) == ["a", "b"]
    assert found.has("model x", "b") and not found.has("model y", "b") and found.has("model z", "b")
    assert "No model has c" in found.remarks[0]
    found = agree([("model x", labels(a=1))], [("dataset A", labels(a=1, b=2))], complete=False)
    assert list(found.labels.regions) == ["a", "b"] and not found.has("model x", "b") and found.has("model z", "b")


def test_a_model_of_plain_labels_has_the_regions_made_of_them():
    found = agree([("model x", labels(whole=[1, 2], core=2)), ("model y", labels(a=1, b=2))], [])
    assert list(found.labels.regions) == ["whole", "core", "a"]
    assert found.has("model y", "whole") and found.has("model x", "a")


def test_datasets_name_the_labels_where_models_do_not():
    assert agree([], [("dataset A", labels(a=1))]).labels == labels(a=1)
    with pytest.raises(StitchError, match="-djfile"):
        agree([], [])


@pytest.mark.parametrize(("one", "two", "said"), [
    ({"a": 1, "b": 2}, {"a": 2, "b": 1}, "label a is 1 in model x and 2 in model y"),
    ({"a": 1}, {"a": [1, 2]}, "label a is 1 in model x and \\(1, 2\\) in model y"),
    ({"a": 1, "ignore": 2}, {"a": 1, "ignore": 3}, "the ignore label is 2 in model x and 3 in model y"),
    ({"a": 1, "ignore": 2}, {"a": 1, "b": 2}, "value 2 is ignored in model x and a label in model y"),
])
def test_contradictions(one, two, said):
    with pytest.raises(StitchError, match=said):
        agree([("model x", labels(**one)), ("model y", labels(**two))], [])


@pytest.mark.parametrize("value", [[], 3, {"a": "x"}, {"a": {}}, {"background": 0}, {FOREGROUND: 1},
                                   {"a": 1, "ignore": 1}])
def test_labels_of_other_kinds(value):
    with pytest.raises(StitchError, match="some.json"):
        Labels.from_json(value, "some.json")


def test_files_of_other_kinds(tmp_path):
    path = tmp_path / "dataset.json"
    for text in ("[1]", "{}", '"x"'):
        path.write_text(text)
        with pytest.raises(StitchError, match="dataset.json"):
            read_labels(str(path))
