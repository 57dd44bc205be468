"""What is ours in plans is read and written in one place: older and newer files too, and anything else is refused."""

import ast
import json
from pathlib import Path

import pytest

import nnunetv2_stitch
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.stitching.plans import STITCHING_KEY, ParentRecord, Stitching, Training

PARENT = {"dataset": "Dataset001_A", "trainer": "nnUNetTrainer", "plans": "nnUNetPlans", "configuration": "2d",
          "checkpoint": "checkpoint_final.pth", "folder": "Dataset001_A/nnUNetTrainer__nnUNetPlans__2d",
          "folds": {"0": {"fold": "all", "sha256": "ab"}}}


def test_no_other_module_reads_it_by_its_key():
    root = Path(nnunetv2_stitch.__file__).parent
    trees = {str(path.relative_to(root)): ast.parse(path.read_text()) for path in root.rglob("*.py")}
    named = {name for name, tree in trees.items() for node in ast.walk(tree)
             if isinstance(node, ast.Constant) and node.value == STITCHING_KEY}
    assert named == {"stitching/plans.py"}


def test_it_comes_back_as_it_was_written():
    written = Stitching(Training("nnUNetTrainerStitch", 3, seed=7, setting={"switches": {}}),
                        (ParentRecord(**PARENT, name="City", adapted=True), ParentRecord(**PARENT)), "d1")
    plans: dict = {}
    written.put_into(plans)
    assert Stitching.of(json.loads(json.dumps(plans))) == written
    assert [p.shown for p in written.parents] == ["City", "Dataset001_A"]
    assert written.parents[0].sha256(0) == "ab" and written.parents[0].sha256(1) is None
    assert written.parents[0].path(0, "/r").endswith("nnUNetTrainer__nnUNetPlans__2d/fold_all/checkpoint_final.pth")


def test_a_file_with_fewer_or_more_fields_is_read():
    """Of the first versions, and of those to come."""
    said = {"training": {"trainer": "nnUNetTrainerStitch", "new": 1}, "parents": [{**PARENT, "new": 2}], "new": 3}
    found = Stitching.of({STITCHING_KEY: said})
    assert found == Stitching(Training("nnUNetTrainerStitch"), (ParentRecord(**PARENT),))
    assert Stitching.find({}) is None
    with pytest.raises(StitchError, match="run nnUNetv2_train_stitch first"):
        Stitching.of({})


@pytest.mark.parametrize("said", [
    [1], "text", {"training": {}}, {"training": {"trainer": "t"}}, {"training": {"trainer": "t"}, "parents": [3]},
    {"training": {"trainer": "t"}, "parents": [{}]},
    {"training": {"trainer": "t"}, "parents": [{**PARENT, "folds": ["0"]}]},
    {"training": {"trainer": "t"}, "parents": [{**PARENT, "folds": {"0": {}}}]}], ids=str)
def test_anything_else_is_refused_in_one_line(said):
    with pytest.raises(StitchError, match="does not say readably what was stitched") as error:
        Stitching.find({STITCHING_KEY: said})
    assert "\n" not in str(error.value)
