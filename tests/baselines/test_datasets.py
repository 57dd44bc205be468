"""One party's data under the other's plans, and both parties' data in one dataset."""

import json
from pathlib import Path

import pytest

from nnunetv2_stitch.baselines.datasets import borrow_plans, has_preprocessed, merge_datasets
from nnunetv2_stitch.errors import StitchError
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
    name = merge_datasets(host, partner, "nnUNetMergedPlans")
    assert name == "Dataset999_HostBlobsAndPartnerBlobs"
    assert merge_datasets(host, partner, "nnUNetMergedPlans") == name
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
    name = merge_datasets(host, partner, "nnUNetMergedPlans")
    second = read(world.preprocessed / name / "splits_final.json")[1]
    assert sum(c.startswith("B_") for c in second["train"]) == 10
    assert not any(c.startswith("B_") for c in second["val"])


def test_a_half_made_merged_dataset_is_made_again(parties):
    world, host, partner = parties
    unfinished = world.preprocessed / ".unfinished_Dataset999_HostBlobsAndPartnerBlobs" / "nnUNetPlans_2d"
    unfinished.mkdir(parents=True)
    (unfinished / "A_rest.pkl").touch()
    name = merge_datasets(host, partner, "nnUNetMergedPlans")
    assert not unfinished.parent.exists()
    assert not list((world.preprocessed / name).rglob("A_rest.pkl"))


def test_images_that_are_not_here(parties):
    world, host, partner = parties
    assert has_preprocessed(partner)
    data = world.preprocessed / partner.dataset_name / partner.configuration_manager.data_identifier
    data.rename(data.with_name("elsewhere"))
    assert not has_preprocessed(partner)
    data.mkdir()
    with pytest.raises(StitchError, match="holds no preprocessed case"):
        merge_datasets(host, partner, "nnUNetMergedPlans")
