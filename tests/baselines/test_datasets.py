"""One party's data under the other's plans, and both parties' data in one dataset."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import stitched_model
import world as worlds

from nnunetv2_stitch.baselines import datasets as module
from nnunetv2_stitch.baselines.datasets import borrow_plans, has_preprocessed, pool_datasets
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.parties.datasets import ENDS, data_digest, stored_contents
from nnunetv2_stitch.parties.model_folder import read_model_folder


@pytest.fixture
def parties(world2d, copy_world, nnunet_env):
    world = nnunet_env(copy_world(world2d))
    return world, *(read_model_folder(str(world.model(p))) for p in (world.host, world.partner))


def read(path) -> dict:
    return json.loads(Path(path).read_text())


def test_borrowed_plans_have_the_networks_of_one_and_the_data_of_the_other(parties):
    world, host, partner = parties
    path = borrow_plans(host, partner, "nnUNetBorrowedPlans")
    assert Path(path) == world.preprocessed / partner.dataset_name / "nnUNetBorrowedPlans.json"
    plans = read(path)
    configuration = plans["configurations"][world.configuration]
    assert plans["dataset_name"] == partner.dataset_name and plans["plans_name"] == "nnUNetBorrowedPlans"
    assert configuration["architecture"]["arch_kwargs"]["features_per_stage"] == list(world.host.features)
    assert configuration["data_identifier"] == partner.configuration_manager.data_identifier
    stamp = Path(path).stat().st_mtime_ns
    borrow_plans(host, partner, "nnUNetBorrowedPlans")
    assert Path(path).stat().st_mtime_ns == stamp  # not written again where nothing changed


def test_merged_dataset_holds_all_cases_of_both_and_joins_their_folds(parties):
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
    world, host, partner = parties
    name = pool_datasets(host, partner, "nnUNetMergedPlans")
    assert name == "Dataset999_HostBlobsAndPartnerBlobs"
    assert pool_datasets(host, partner, "nnUNetMergedPlans") == name
    folder = world.preprocessed / name
    data = folder / read(folder / "nnUNetMergedPlans.json")["configurations"]["2d"]["data_identifier"]
    cases = infer_dataset_class(str(data)).get_identifiers(str(data))
    assert len(cases) == 20 and sum(c.startswith("A_tr_") for c in cases) == 10
    assert read(folder / "dataset.json")["numTraining"] == 20
    for fold in (0, 1):
        merged = read(folder / "splits_final.json")[fold]
        for prefix, party in (("A_", host), ("B_", partner)):
            own = read(world.preprocessed / party.dataset_name / "splits_final.json")[fold]
            for part in ("train", "val"):
                assert [c for c in merged[part] if c.startswith(prefix)] == [prefix + c for c in own[part]]
    labels = {p.name for p in (folder / "gt_segmentations").iterdir()}
    assert labels == {f"{case}.nii.gz" for case in cases}
    image = infer_dataset_class(str(data))(str(data), ["B_tr_003"]).load_case("B_tr_003")[0][:]
    source = world.preprocessed / partner.dataset_name / partner.configuration_manager.data_identifier
    assert (image == infer_dataset_class(str(source))(str(source), ["tr_003"]).load_case("tr_003")[0][:]).all()


def test_a_party_with_fewer_folds_trains_on_all_its_cases_in_the_others(parties):
    world, host, partner = parties
    path = world.preprocessed / partner.dataset_name / "splits_final.json"
    path.write_text(json.dumps(read(path)[:1]))
    name = pool_datasets(host, partner, "nnUNetMergedPlans")
    second = read(world.preprocessed / name / "splits_final.json")[1]
    assert sum(c.startswith("B_") for c in second["train"]) == 10
    assert not any(c.startswith("B_") for c in second["val"])


def test_a_half_made_merged_dataset_is_made_again(parties, monkeypatch):
    world, host, partner = parties
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "_prefixed_splits", interrupt)
        pool_datasets(host, partner, "nnUNetMergedPlans")
    unfinished, = world.preprocessed.glob(".unfinished_pooled_*")
    (unfinished / "nnUNetPlans_2d" / "A_rest.pkl").touch()
    name = pool_datasets(host, partner, "nnUNetMergedPlans")
    assert not unfinished.exists()
    assert not list((world.preprocessed / name).rglob("A_rest.pkl"))


def interrupt(*arguments):
    raise KeyboardInterrupt


def test_nothing_is_removed_that_was_not_made_from_exactly_these_data(parties):
    """Names of datasets and folders do not say whose they are: a record in them does."""
    world, host, partner = parties
    users = world.preprocessed / "Dataset020_HostBlobsAndPartnerBlobs"
    shutil.copytree(world.preprocessed / host.dataset_name, users)
    (users / f"{worlds.PLANS}_2d").rename(users / "nnUNetPlans_3d_fullres")
    before = stitched_model.tree(world.root)
    first = pool_datasets(host, partner, "nnUNetMergedPlans")
    assert first == "Dataset999_HostBlobsAndPartnerBlobs"
    # Another hospital's dataset of the same short name, with other images.
    shutil.copytree(world.preprocessed / partner.dataset_name, world.preprocessed / "Dataset805_PartnerBlobs")
    data = world.preprocessed / "Dataset805_PartnerBlobs" / partner.configuration_manager.data_identifier
    for file in data.glob("tr_000*"):
        file.unlink()
    other = replace(partner, dataset_name="Dataset805_PartnerBlobs")
    made = stitched_model.tree(world.preprocessed / first)
    second = pool_datasets(host, other, "nnUNetMergedPlans")
    assert second == "Dataset998_HostBlobsAndPartnerBlobs"
    assert len(list((world.preprocessed / second / "nnUNetPlans_2d").glob("*.pkl"))) == 19
    assert pool_datasets(host, partner, "nnUNetMergedPlans") == first
    assert stitched_model.tree(world.preprocessed / first) == made
    after = stitched_model.tree(world.root)
    assert {path: after.get(path) for path in before} == before


def test_plans_of_somebody_else_are_not_overwritten(parties):
    world, host, partner = parties
    path = world.preprocessed / partner.dataset_name / "nnUNetMineplans.json"
    path.write_text(json.dumps({"mine": True}))
    with pytest.raises(StitchError, match="holds other plans; move it away"):
        borrow_plans(host, partner, "nnUNetMineplans")
    assert read(path) == {"mine": True}


def test_data_are_told_apart_by_cases_folds_and_labels_and_not_by_what_training_writes_beside_them(parties):
    world, host, _ = parties
    folder = world.preprocessed / host.dataset_name
    data = folder / host.configuration_manager.data_identifier
    first = data_digest(str(folder), data.name)
    (data / "tr_000.npy").touch()  # as nnU-Net unpacks npz
    assert data_digest(str(folder), data.name) == first
    splits = read(folder / "splits_final.json")
    (folder / "splits_final.json").unlink()
    planned = data_digest(str(folder), data.name)
    from nnunetv2.utilities.crossval_split import generate_crossval_split
    made = generate_crossval_split(sorted(p.stem for p in data.glob("*.pkl")))
    (folder / "splits_final.json").write_text(json.dumps(made, default=str))  # as nnU-Net does when it trains
    assert data_digest(str(folder), data.name) == planned != first
    (folder / "splits_final.json").write_text(json.dumps(splits[::-1]))
    assert data_digest(str(folder), data.name) not in (first, planned)
    (folder / "splits_final.json").write_text(json.dumps(splits))
    assert data_digest(str(folder), data.name) == first
    (data / "tr_000.pkl").unlink()
    assert data_digest(str(folder), data.name) != first
    assert data_digest(str(folder), "nnUNetPlans_3d_fullres") is None


@pytest.mark.parametrize("ending", ["tr_000.pkl", "tr_000.b2nd", "tr_000_seg.b2nd"])
def test_data_are_told_apart_by_what_the_files_hold_and_not_by_names_and_sizes_alone(parties, ending):
    world, host, _ = parties
    folder = world.preprocessed / host.dataset_name
    data = folder / host.configuration_manager.data_identifier
    first = data_digest(str(folder), data.name)
    for litter in ("._tr_000.pkl", "._tr_000.b2nd"):  # as some systems leave beside every file
        (data / litter).touch()
    os.utime(data / ending)
    assert data_digest(str(folder), data.name) == first
    content = bytearray((data / ending).read_bytes())
    content[-1] ^= 1
    (data / ending).write_bytes(content)
    assert data_digest(str(folder), data.name) != first
    assert len(stored_contents(str(data), ["tr_000"])) == 3


def test_of_a_large_file_both_ends_count(tmp_path):
    path = tmp_path / "big.b2nd"
    found = set()
    for place in (None, 0, 3 * ENDS - 1):
        content = bytearray(3 * ENDS)
        if place is not None:
            content[place] = 1
        path.write_bytes(content)
        found.add(stored_contents(str(tmp_path))["big.b2nd"])
    assert len(found) == 3


def test_a_party_without_splits_is_pooled_by_those_that_nnunet_would_make(parties):
    world, host, partner = parties
    (world.preprocessed / partner.dataset_name / "splits_final.json").unlink()
    name = pool_datasets(host, partner, "nnUNetMergedPlans")
    folds = read(world.preprocessed / name / "splits_final.json")
    assert len(folds) == 5 and all(sum(c.startswith("B_") for c in f["val"]) == 2 for f in folds)


def test_images_that_are_not_here(parties):
    world, host, partner = parties
    assert has_preprocessed(partner)
    data = world.preprocessed / partner.dataset_name / partner.configuration_manager.data_identifier
    data.rename(data.with_name("elsewhere"))
    assert not has_preprocessed(partner)
    data.mkdir()
    with pytest.raises(StitchError, match="holds no preprocessed case"):
        pool_datasets(host, partner, "nnUNetMergedPlans")
