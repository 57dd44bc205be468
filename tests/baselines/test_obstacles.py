"""Rows that cannot be made here are known, with the reason, before anything is trained."""

import json
import shutil
import sys

import numpy as np
import pytest
import world as worlds
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

from nnunetv2_stitch.baselines.compare import compare
from nnunetv2_stitch.baselines.obstacles import obstacle
from nnunetv2_stitch.baselines.rows import ROWS
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.pipeline import Request
from nnunetv2_stitch.pipeline.prepare import examine

KEYS = [r.key for r in ROWS if r.key != "soup"]  # the networks differ


@pytest.fixture
def world(world2d, copy_world, nnunet_env, thread_pools):
    return nnunet_env(copy_world(world2d))


def reasons(world, epochs=None, iterations=None) -> dict[str, str]:
    job = examine(Request(world.host.dataset, world.partner.dataset))
    found = {key: obstacle(key, job, epochs, iterations) for key in KEYS}
    return {key: reason for key, reason in found.items() if reason}


def as_older_versions_store_them(folder) -> None:
    """npz for b2nd, as nnU-Net preprocessed up to 2.5."""
    dataset = infer_dataset_class(str(folder))(str(folder))
    for case in sorted(p.stem for p in folder.glob("*.pkl")):
        data, segmentation = dataset.load_case(case)[:2]
        np.savez_compressed(folder / f"{case}.npz", data=data[:], seg=segmentation[:])
    for file in folder.glob("*.b2nd"):
        file.unlink()


def test_nothing_stands_in_the_way_where_all_is_there(world, monkeypatch):
    monkeypatch.setitem(sys.modules, "flwr", None)  # Flower need not be
    assert reasons(world) == {}


def test_trainers_that_are_not_installed(world, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", "")
    needed = {"finetuned_B_on_A": world.partner, "guided_merge": world.partner, "finetuned_A_on_B": world.host,
              "pooled": world.host}
    told = {"distilled": world.host, "untaught": world.host, "federated": world.host}
    found = reasons(world)
    assert found.keys() == {*needed, *told}
    for key, party in {**needed, **told}.items():
        assert f"{worlds.TRAINER}, the trainer of {party.dataset}, is not installed here" in found[key]
        assert ("-baseline_epochs" in found[key]) == (key in told)
    assert reasons(world, 1, 1).keys() == needed.keys()


def test_images_that_different_versions_of_nnunet_preprocessed(world):
    as_older_versions_store_them(world.preprocessed / world.partner.dataset / f"{worlds.PLANS}_2d")
    found = reasons(world)
    assert found.keys() == {"pooled"}
    assert f"those of {world.host.dataset} b2nd and those of {world.partner.dataset} npz files" in found["pooled"]


def test_images_of_the_host_that_nnunet_would_not_train_on(world):
    data = world.preprocessed / world.host.dataset / f"{worlds.PLANS}_2d"
    (data / "tr_000.npz").touch()
    found = reasons(world)
    assert found.keys() == {*KEYS} - {"A_alone", "B_alone", "finetuned_A_on_B"}
    assert all("files of several kinds" in reason for reason in found.values())
    data.rename(data.with_name("elsewhere"))
    assert reasons(world).keys() == {*KEYS} - {"A_alone", "B_alone"}


def test_a_partner_whose_dataset_is_called_as_the_hosts(world, tmp_path):
    """What is here under that name is the host's: it is not taken for the partner's."""
    model = shutil.copytree(world.model(world.partner), tmp_path / world.host.dataset /
                            world.model(world.partner).name)
    job = examine(Request(world.host.dataset, None, model_b=str(model)))
    found = {key: obstacle(key, job, 1, 1) for key in KEYS}
    assert {key for key, reason in found.items() if reason} == {"finetuned_A_on_B", "pooled", "federated"}
    assert "the one that is here is the host's" in found["pooled"]
    before = sorted(world.root.rglob("*"))
    with pytest.raises(StitchError, match="name the test sets with -datasets"):
        compare(world.host.dataset, None, model_b=str(model), device="cpu")
    assert sorted(world.root.rglob("*")) == before


@pytest.mark.slow
def test_a_comparison_leaves_such_rows_out_and_makes_the_others(world, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", "")
    said = []
    result = compare(world.host.dataset, world.partner.dataset, device="cpu", progress=False, tta=False, folds=[0],
                     epochs=1, iterations=1, positions=[2], rows=["plain_ensemble", "pooled", "finetuned_B_on_A"],
                     say=said.append)
    assert result.comparison.model_names == ["A alone", "plain ensemble"]
    assert result.skipped.keys() == {"pooled data", "B fine-tuned on A"}
    first = next(i for i, line in enumerate(said) if "fold 0" in line)
    assert sum("left out" in line for line in said[:first]) == 2
    assert json.loads(open(f"{result.folder}/compare_state.json").read())["skipped"].keys() == {"pooled",
                                                                                                "finetuned_B_on_A"}
