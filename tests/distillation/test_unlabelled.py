"""Images without labels: preprocessed once and whole, drawn beside the labelled ones."""

import shutil

import numpy as np
import pytest
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_stitch.distillation.unlabelled import (
    PREFIX,
    JoinedDataset,
    fingerprint,
    is_labelled,
    preprocess_unlabelled,
)
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import read_json

ENDING = ".nii.gz"


@pytest.fixture
def prepared(world2d, tmp_path):
    """Folder of images, where they go, the host's plans and dataset.json."""
    images = shutil.copytree(world2d.test_images(world2d.partner), tmp_path / "images")
    folder = world2d.preprocessed / world2d.host.dataset
    return images, tmp_path / "done", read_json(folder / "nnUNetPlans.json"), read_json(folder / "dataset.json")


def run(images, target, plans, dataset_json):
    preprocess_unlabelled(str(images), str(target), plans, "2d", dataset_json, fingerprint(str(images), ENDING), False)


def test_preprocessed_as_nnunet_does_and_only_once(prepared, world2d):
    images, target, plans, dataset_json = prepared
    run(*prepared)
    names = sorted(p.name for p in target.iterdir())
    assert names == sorted([f"ts_00{i}{e}" for i in range(3) for e in (".b2nd", "_seg.b2nd", ".pkl")] + ["source.json"])
    manager = PlansManager(plans)
    configuration = manager.get_configuration("2d")
    wanted, _, _ = configuration.preprocessor_class(verbose=False).run_case(
        [str(images / "ts_000_0000.nii.gz")], None, manager, configuration, dataset_json)
    labelled = infer_dataset_class(str(folder := world2d.preprocessed / world2d.host.dataset / "nnUNetPlans_2d"))(
        str(folder), ["tr_000", "tr_001"])
    joined = JoinedDataset(labelled, str(target))
    np.testing.assert_array_equal(joined.load_case(f"{PREFIX}ts_000")[0][:], wanted)
    assert joined.load_case("tr_000")[1][:].max() == 2

    stamps = {p: p.stat().st_mtime_ns for p in target.iterdir()}
    run(*prepared)
    assert {p: p.stat().st_mtime_ns for p in target.iterdir()} == stamps
    (images / "ts_002_0000.nii.gz").unlink()
    run(*prepared)
    assert not (target / "ts_002.pkl").exists() and (target / "ts_001.pkl").exists()


def test_an_unreadable_image_leaves_nothing(prepared):
    images, target, *_ = prepared
    (images / "ts_001_0000.nii.gz").write_bytes(b"no image")
    with pytest.raises(StitchError, match="ts_001_0000.nii.gz cannot be read"):
        run(*prepared)
    assert sorted(p.name for p in target.parent.iterdir()) == ["images"]


def test_a_folder_that_was_not_made_here_is_not_replaced(prepared):
    _, target, *_ = prepared
    for folder in (target, target.with_name(".unfinished_done")):
        folder.mkdir()
        (folder / "notes.txt").touch()
        with pytest.raises(StitchError, match=f"{folder.name} is there and was not made by this command"):
            run(*prepared)
        assert [p.name for p in folder.iterdir()] == ["notes.txt"]
        (folder / "notes.txt").unlink()
        folder.rmdir()
    run(*prepared)


@pytest.mark.parametrize("ignore", [False, True])
def test_nnunets_loader_draws_both_kinds_and_at_most_half_without_labels(prepared, world2d, ignore):
    images, target, plans, dataset_json = prepared
    if ignore:
        dataset_json = {**dataset_json, "labels": {**dataset_json["labels"], "ignore": 3}}
    run(images, target, plans, dataset_json)
    folder = world2d.preprocessed / world2d.host.dataset / "nnUNetPlans_2d"
    joined = JoinedDataset(infer_dataset_class(str(folder))(str(folder), ["tr_000", "tr_001"]), str(target))
    assert sorted(joined.identifiers) == ["tr_000"] * 2 + ["tr_001"] * 2 + [f"{PREFIX}ts_00{i}" for i in range(3)]
    manager = PlansManager(plans).get_label_manager(dataset_json)
    if ignore:  # the labelled ones were preprocessed without
        joined.identifiers = [i for i in joined.identifiers if not is_labelled(i)]
    np.random.seed(0)
    loader = nnUNetDataLoader(joined, 4, (64, 64), (64, 64), manager, 0.33)
    batches = [next(loader) for _ in range(5)]
    kinds = {is_labelled(k) for b in batches for k in b["keys"]}
    assert kinds == ({False} if ignore else {False, True})
    for batch in batches:
        for key, segmentation in zip(batch["keys"], batch["target"]):
            assert is_labelled(key) == bool((segmentation > 0).any())
