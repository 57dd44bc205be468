import pytest

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.evaluation.entries import ModelEntry, TestSet, is_mode, is_model_folder, require_distinct


def test_parsing():
    assert ModelEntry.parse("A alone=some/folder") == ModelEntry("A alone", "some/folder")
    assert ModelEntry.parse("x=m@host") == ModelEntry("x", "m", "host")
    assert ModelEntry.parse("x=m@home/y") == ModelEntry("x", "m@home/y")
    assert ModelEntry.parse("x=a=b") == ModelEntry("x", "a=b")
    assert TestSet.parse("A=dir") == TestSet("A", "dir")


@pytest.mark.parametrize("text", ["", "x", "=x", "x=", "a/b=c", ".x=c", "a\\b=c", "..=c"])
def test_what_names_nothing(text):
    for kind in (ModelEntry, TestSet):
        with pytest.raises(StitchError):
            kind.parse(text)


def test_entries_of_no_sense():
    with pytest.raises(StitchError, match="either a folder or predictions"):
        ModelEntry("x")
    with pytest.raises(StitchError, match="either a folder or predictions"):
        ModelEntry("x", "folder", predictions={"A": "a"})
    with pytest.raises(StitchError, match="'odd'"):
        ModelEntry("x", "folder", "odd")
    with pytest.raises(StitchError, match="named twice"):
        require_distinct(["a", "b", "A"], "model")


def test_folders_are_moved():
    for entry in (ModelEntry("x", "f", "host", "needs much"), ModelEntry("x", predictions={"A": "a"})):
        assert entry.moved(lambda p: p) == entry
    assert ModelEntry("x", predictions={"A": "a"}).moved(lambda p: "/" + p).predictions == {"A": "/a"}


def test_predictions_are_not_taken_for_a_model(tmp_path):
    """nnU-Net writes plans.json and dataset.json beside predictions too."""
    for name in ("plans.json", "dataset.json"):
        (tmp_path / name).write_text("{}")
    assert not is_model_folder(str(tmp_path))
    (tmp_path / "fold_0").mkdir()
    assert is_model_folder(str(tmp_path)) and not is_model_folder(str(tmp_path / "none"))


def test_where_predictions_are(tmp_path):
    (tmp_path / "A").mkdir()
    entry = ModelEntry("x", str(tmp_path))
    assert entry.prediction_folder("A", only_party=False) == str(tmp_path / "A")
    assert entry.prediction_folder("B", only_party=True) == str(tmp_path)
    with pytest.raises(StitchError, match="no folder B with predictions"):
        entry.prediction_folder("B", only_party=False)
    named = ModelEntry("x", predictions={"A": str(tmp_path / "A"), "C": str(tmp_path / "gone")})
    assert named.prediction_folder("A", only_party=False) == str(tmp_path / "A")
    for party in "BC":
        with pytest.raises(StitchError, match=f"no predictions of {party}"):
            named.prediction_folder(party, only_party=False)


@pytest.mark.parametrize(("images", "labels"), [("imagesTs", "labelsTs"), ("images", "labels"), (None, "labels"),
                                                (None, ".")])
def test_layouts_of_test_sets(tmp_path, images, labels):
    (tmp_path / labels).mkdir(exist_ok=True)
    for name in ("b.nii.gz", "a_1.nii.gz", ".hidden.nii.gz", "notes.txt"):
        (tmp_path / labels / name).touch()
    if images:
        (tmp_path / images).mkdir()
        for name in ("b_0001.nii.gz", "b_0000.nii.gz", "a_1_0000.nii.gz", "b_x_0000.nii.gz", "b_00.nii.gz"):
            (tmp_path / images / name).touch()
    found = TestSet("A", str(tmp_path))
    assert list(found.cases(".nii.gz")) == ["a_1", "b"]
    names = [p.rsplit("/", 1)[1] for p in found.images_of("b", ".nii.gz")]
    assert names == (["b_0000.nii.gz", "b_0001.nii.gz"] if images else [])
    with pytest.raises(StitchError, match="CASE.png"):
        found.cases(".png")


def test_a_test_set_that_is_not_there(tmp_path):
    with pytest.raises(StitchError, match="nowhere does not exist"):
        TestSet("A", str(tmp_path / "nowhere")).cases(".nii.gz")


def test_modes():
    assert all(map(is_mode, ("stitched", "ensemble", "host", "partner", "partner2", "partner12")))
    assert not any(map(is_mode, ("", "partner1", "partner0", "hosts", "2")))
