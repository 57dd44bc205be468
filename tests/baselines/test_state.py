"""The kind: what is taken for the same is the same by what the files hold, not by their names and sizes, and files that
systems leave beside them do not count."""

from pathlib import Path

import pytest

from nnunetv2_stitch.baselines.compare import chosen_rows
from nnunetv2_stitch.baselines.state import State
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.evaluation.entries import TestSet
from nnunetv2_stitch.provenance import Provenance, begin
from nnunetv2_stitch.selection.party_sweep import sweep_party

RECORD = Provenance("comparison", {"seed": 1})


def change_one_byte(path) -> None:
    content = bytearray(path.read_bytes())
    content[9] ^= 1  # of gzip's header: the same image in another file
    path.write_bytes(content)


def litter(folder) -> None:
    (folder / ".DS_Store").touch()
    (folder / "._case.nii.gz").touch()
    (folder / "Thumbs.db").touch()


@pytest.mark.parametrize("changed", ["imagesTs", "labelsTs"])
def test_a_comparison_is_not_gone_on_with_on_other_test_cases(world2d, copy_world, tmp_path, changed):
    world = copy_world(world2d)
    sets = [TestSet("A", str(world.raw / world.host.dataset))]
    folder = tmp_path / "comparison"
    State.of(str(folder), RECORD, sets, resume=False).write()
    inside = world.raw / world.host.dataset / changed
    litter(inside)
    State.of(str(folder), RECORD, sets, resume=True)
    change_one_byte(min(inside.glob("[!.]*.nii.gz")))
    with pytest.raises(StitchError, match="the test cases of A are not those"):
        State.of(str(folder), RECORD, sets, resume=True)


def test_a_folder_with_hidden_files_only_is_empty(tmp_path):
    litter(tmp_path)
    State.of(str(tmp_path), RECORD, [], resume=False)
    begin(str(tmp_path), RECORD)
    (tmp_path / "thesis.txt").touch()
    (tmp_path / "made_from.json").unlink()
    for use in (lambda: State.of(str(tmp_path), RECORD, [], resume=False), lambda: begin(str(tmp_path), RECORD)):
        with pytest.raises(StitchError, match="is not empty|was not made by this command"):
            use()


@pytest.mark.slow
def test_scores_of_an_interrupted_sweep_count_for_the_same_images_only(stitched2d, copy_world, nnunet_env, tmp_path):
    world = nnunet_env(copy_world(stitched2d.world))

    def sweep() -> list[str]:
        said = []
        sweep_party(str(stitched2d.folder), 801, folds=[0], positions=[2], device="cpu", progress=False,
                    keep=str(tmp_path / "kept"), continue_sweep=True, say=said.append)
        return [line for line in said if "are done" in line]

    assert sweep() == []
    assert "5 of 5 cases are done" in sweep()[0]
    for path in (world.raw / world.host.dataset / "imagesTr").glob("*.nii.gz"):
        change_one_byte(path)
    assert sweep() == []


def test_a_row_goes_on_under_its_new_key_and_is_asked_for_by_either(tmp_path):
    """The kind: what was renamed is still understood, in flags and in the files of an earlier version."""
    folder = tmp_path / "comparison"
    before = State.of(str(folder), RECORD, [], resume=False)
    before.rows, before.skipped = {"merged": {"predicted": ["A"]}}, {"soup": "the two networks differ"}
    before.write()
    prediction = folder / "predictions" / "{}" / "A" / "case.nii.gz"
    old, new = (Path(str(prediction).format(key)) for key in ("merged", "pooled"))
    old.parent.mkdir(parents=True)
    old.touch()
    after = State.of(str(folder), RECORD, [], resume=True)
    assert after.rows == {"pooled": {"predicted": ["A"]}} and after.skipped == before.skipped
    assert new.is_file() and not old.exists()
    assert [row.key for row in chosen_rows(["merged"])] == [row.key for row in chosen_rows(["pooled"])] == [
        "A_alone", "pooled"]
