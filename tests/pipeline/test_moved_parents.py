"""Kind: a model is known by its sha256, wherever it lies by now; and records of places are read on every system."""

import json
import ntpath
import os
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
from stitched_model import tree

from nnunetv2_stitch import fileio
from nnunetv2_stitch.distillation.prepare import DistillRequest, prepare
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import found_again, recorded, relative_path, write_json
from nnunetv2_stitch.pipeline import train_stitch


@pytest.fixture
def world(stitched2d, copy_world, nnunet_env, thread_pools):
    """A copy of the world with the stitched model, which the test may change."""
    return nnunet_env(copy_world(stitched2d.world))


def again(world, model, **arguments):
    return train_stitch(world.host.dataset_id, model_b=str(model), device="cpu", progress=False, epochs=2, iterations=4,
                        **arguments)


@pytest.mark.slow
def test_a_partner_that_moved_is_found_again_at_the_place_given(world, stitched2d, tmp_path):
    """Under its old dataset's name and under another one, inside nnUNet_results and elsewhere."""
    folder = world.results / stitched2d.folder.relative_to(stitched2d.world.results)
    plans_files = world.preprocessed / world.host.dataset / "nnUNetStitchPlans.json", folder / "plans.json"
    place = world.model(world.partner)
    chosen, before = stitched2d.result.positions, tree(world.model(world.host))
    for new, switch in ((tmp_path / "from_b" / place.name, dict(only_selection=True)),
                        (world.results / "Dataset805_Alias" / place.name, dict(only_validation=True, folds=[0])),
                        (tmp_path / "Dataset806_Away" / place.name, dict(continue_training=True))):
        new.parent.mkdir()
        shutil.move(place, new)
        shutil.rmtree(folder / "fold_0" / "validation")
        result = again(world, new, **switch)
        assert all(chosen[f] == p for f, p in result.positions.items())
        assert (folder / "fold_0" / "validation" / "summary.json").is_file()
        for path in plans_files:
            parents = json.loads(path.read_text())["configurations"]["2d"]["stitching"]["parents"]
            assert found_again(parents[1]["folder"], str(world.results)) == str(new)
            assert list(parents[1]["folds"]) == ["0", "1"]
        place = new
    assert tree(world.model(world.host)) == before


@pytest.mark.slow
def test_what_lies_there_now_must_be_the_same_model(world, tmp_path):
    place = world.model(world.partner)
    other = tmp_path / "Dataset807_Other" / place.name
    shutil.copytree(place, other)
    (other / "fold_1" / "checkpoint_final.pth").unlink()
    shutil.rmtree(place)
    before = tree(world.root)
    with pytest.raises(StitchError, match="fold 1 was stitched with .*which is not there any more.*-m_b"):
        again(world, other, only_selection=True, folds=[0])
    assert tree(world.root) == before


@pytest.mark.slow
def test_a_teacher_that_moved_is_found_again_too(world, stitched2d, tmp_path):
    folder = world.results / stitched2d.folder.relative_to(stitched2d.world.results)
    request = DistillRequest(str(folder), world.host.dataset_id, folds=[0])
    job = prepare(request)
    write_json(job.plans_file, job.plans)
    os.makedirs(job.fold_folder(0))
    moved = shutil.move(folder, tmp_path / folder.name)
    again = prepare(replace(request, teacher=str(moved)), continue_training=True)
    assert again.record.teacher == str(moved) and again.record.folds == job.record.folds
    with pytest.raises(StitchError, match="-seed"):  # other differences stay differences
        prepare(replace(request, teacher=str(moved), seed=7), continue_training=True)


@pytest.mark.parametrize("path, around, said", [
    (r"C:\results\Dataset1_A\T__P__2d", r"C:\results", "Dataset1_A/T__P__2d"),
    (r"C:\from_b\T__P__2d", r"C:\results", "C:/from_b/T__P__2d"),
    (r"D:\from_b\T__P__2d", r"C:\results", "D:/from_b/T__P__2d"),
    (r"C:\results\..odd\T__P__2d", r"C:\results", "..odd/T__P__2d"),
])
def test_places_on_windows_are_recorded_with_slashes_also_on_two_drives(path, around, said, monkeypatch):
    """`os.path` of Windows, on which relpath raises ValueError from one drive to another."""
    monkeypatch.setattr(fileio, "os", SimpleNamespace(path=ntpath, sep="\\", pardir=".."))
    assert recorded(path, around) == said
    assert found_again(said, around) == (said if ntpath.isabs(said) else path)


def test_records_with_backslashes_are_read_here():
    assert found_again("Dataset1_A\\T__P__2d", "/results") == "/results/Dataset1_A/T__P__2d"
    assert found_again(relative_path("/data/b", "/results"), "/results") == os.path.abspath("/data/b")
    assert found_again("/from_b/T__P__2d", "/results") == "/from_b/T__P__2d"
