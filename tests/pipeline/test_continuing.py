"""`--c`, `--val`, folds trained one by one, and what may not be overwritten or mixed."""

import json
import shutil

import pytest
import torch
from pages import page_of
from stitched_model import SHORT, stitch, tree
from world import PLANS, TRAINER

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.pipeline import train_stitch
from nnunetv2_stitch.stitching.network import SETTING_KEY
from nnunetv2_stitch.stitching.setting import decode_setting

pytestmark = pytest.mark.slow


@pytest.fixture
def world(stitched2d, copy_world, nnunet_env, thread_pools):
    """A copy of the world with the stitched model, which the test may change."""
    return nnunet_env(copy_world(stitched2d.world))


@pytest.fixture
def folder(world, stitched2d):
    return world.results / stitched2d.folder.relative_to(stitched2d.world.results)


def setting_of(folder, fold):
    path = folder / f"fold_{fold}" / "checkpoint_final.pth"
    return decode_setting(torch.load(path, weights_only=True)["network_weights"][SETTING_KEY])


def network_weights(folder):
    return {p: torch.load(p, weights_only=True)["network_weights"] for p in sorted(folder.rglob("checkpoint_*.pth"))}


def test_going_on_after_the_end_keeps_everything(world, folder, stitched2d):
    before, weights = tree(folder), network_weights(folder)
    said = []
    result = stitch(world, epochs=2, iterations=4, continue_training=True, say=said.append, page=True)
    assert said == ["fold 0: stitches are trained", "fold 1: stitches are trained", f"writing {folder / 'report.html'}"]
    assert result.table == stitched2d.result.table and result.positions == stitched2d.result.positions
    after = tree(folder)
    rewritten = {p for p in before if before[p] != after[p]}
    assert after.keys() == before.keys()
    assert all(p.endswith((".pth", ".png", "report.html")) for p in rewritten), rewritten
    for path, kept in network_weights(folder).items():
        assert kept.keys() == weights[path].keys() and all(torch.equal(v, kept[k]) for k, v in weights[path].items())


def test_going_on_without_the_fit_of_what_was_begun_is_said(world):
    """Kind: `--c` that finds nothing begins anew, as nnU-Net's, while what was meant lies beside it."""
    def stop(line: str) -> None:
        raise KeyboardInterrupt(line)

    with pytest.raises(KeyboardInterrupt, match="was begun with -fit double_batched: to go on with that, stop this"):
        stitch(world, fit="direct", folds=[0], iterations=1, continue_training=True, say=stop)


def test_a_finished_model_is_not_overwritten_without_c(world):
    before = tree(world.root)
    with pytest.raises(StitchError, match=r"already holds fold 0; add --c to go on, -o_p NAME"):
        stitch(world)
    assert tree(world.root) == before


def test_an_interrupted_fold_goes_on_as_it_was_begun(world, folder):
    """The kind: plans say of a model what its folds were trained with, so no later command may write anything else
    into them, whether the folds are finished, interrupted or still to come."""
    before = tree(world.root)
    changes = (({"seed": 7}, "-seed 12345, not 7"), ({"epochs": 99}, "-epochs 2, not 99"),
               ({"iterations": 5}, "-iterations 4, not 5"),
               ({"positions_per_pass": 3}, "-positions_per_pass its default, not 3"))
    for (change, said), how in zip(changes, ("continue_training", "only_selection", "only_validation",
                                             "continue_training")):
        with pytest.raises(StitchError, match=f"fold_0 was begun with {said}; go on with the same"):
            stitch(world, **{"epochs": 2, "iterations": 4, **change, how: True}, folds=[0])
    assert tree(world.root) == before
    shutil.rmtree(folder / "fold_1")
    with pytest.raises(StitchError, match="fold_0 was begun with -epochs 2, not 99; go on with the same"):
        stitch(world, folds=[1], epochs=99)
    assert tree(world.root) == {p: d for p, d in before.items() if not p.startswith(str(folder / "fold_1"))}


def test_what_is_not_asked_for_goes_on_as_it_was_begun(world):
    plans = world.preprocessed / world.host.dataset / "nnUNetStitchPlans.json"

    def training() -> dict:
        return json.loads(plans.read_text())["configurations"]["2d"]["stitching"]["training"]

    begun = training()
    assert (begun["num_epochs"], begun["num_iterations_per_epoch"], begun["seed"]) == (2, 4, 12345)
    stitch(world, continue_training=True)
    assert training() == begun


def test_going_on_with_other_data_is_refused(world):
    """A fold that was trained before is taken for what would be trained now; other images would give another one."""
    case = min((world.preprocessed / world.host.dataset / f"{PLANS}_2d").glob("*_seg.b2nd"))
    content = case.read_bytes()
    case.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    before = tree(world.root)
    for given in ({"folds": [0]}, {}):
        with pytest.raises(StitchError, match="fold_0 was begun with other preprocessed data.*-o_p NAME"):
            stitch(world, continue_training=True, **given)
    assert tree(world.root) == before
    stitch(world, only_selection=True)  # which trains nothing


def test_going_on_with_another_partner_is_refused(world):
    shutil.copytree(world.results / world.partner.dataset, world.results / "Dataset805_Other")
    before = tree(world.root)
    with pytest.raises(StitchError, match="made for other parents.*-o_p"):
        train_stitch(world.host.dataset_id, 805, device="cpu", continue_training=True)
    with pytest.raises(StitchError, match="made for other parents.*-o_p"):
        stitch(world, positions=[3], continue_training=True)
    assert tree(world.root) == before


def test_a_parent_that_was_trained_again_is_not_mixed_with_old_stitches(world):
    path = world.model(world.partner) / "fold_1" / "checkpoint_final.pth"
    checkpoint = torch.load(path, weights_only=False)
    checkpoint["network_weights"] = {k: v * 1.01 for k, v in checkpoint["network_weights"].items()}
    torch.save(checkpoint, path)
    before = tree(world.root)
    with pytest.raises(StitchError, match=f"fold 1 was stitched with fold 1 of {world.partner.dataset}.*sha256"):
        stitch(world, continue_training=True)
    assert tree(world.root) == before


def test_folds_may_come_one_by_one(world, folder, stitched2d):
    """As nnU-Net users train them; a later fold must not take the earlier ones' weights out of the plans."""
    shutil.rmtree(folder / "fold_1")
    shutil.rmtree(folder / "fold_0")
    shutil.copytree(stitched2d.folder / "fold_0", folder / "fold_0")
    with pytest.raises(StitchError, match="other parents, positions"):
        stitch(world, **{**SHORT, "folds": [1]})
    said = []
    stitch(world, folds=[1], fit="double_batched", say=said.append)
    assert said[0].startswith("fold 1: training")
    parents = json.loads((folder / "plans.json").read_text())["configurations"]["2d"]["stitching"]["parents"]
    assert all(p["folds"].keys() == {"0", "1"} for p in parents)
    result = stitch(world, continue_training=True, say=said.append)
    assert result.folds == [0, 1] and "fold 0: stitches are trained" in said
    assert setting_of(folder, 0) == setting_of(folder, 1)


def test_validation_alone_repeats_what_is_deployed(world, folder):
    rule1 = stitch(world, rule="1", continue_training=True)
    assert len(set(rule1.positions.values())) == 2, "the folds' best positions should differ in this world"
    wanted = {fold: tree(folder / f"fold_{fold}" / "validation") for fold in (0, 1)}
    for fold in (0, 1):
        shutil.rmtree(folder / f"fold_{fold}" / "validation")
    result = stitch(world, only_validation=True, page=True)  # with the default rule, which would choose otherwise
    assert result == rule1  # with its table and commands, too
    page = page_of(folder).text
    part = stitch(world, only_validation=True, folds=[1], page=True)
    assert part == rule1 and page_of(folder).text == page  # of the whole model
    for fold in (0, 1):
        again = tree(folder / f"fold_{fold}" / "validation")
        images = [p for p in wanted[fold] if p.endswith(".nii.gz")]
        assert len(images) == 5 and all(again[p] == wanted[fold][p] for p in images)
        assert setting_of(folder, fold).to_json()["switches"] == {str(rule1.positions[fold][0]): "average"}
    rule2 = stitch(world, rule="2", continue_training=True)
    stamps = [json.loads((folder / f"fold_{f}" / "validation/stitch_setting.json").read_text()) for f in (0, 1)]
    assert all(s["setting"]["switches"] == {str(rule2.position): "average"} for s in stamps)


def test_validation_alone_of_an_unfinished_fold_is_refused(world, folder):
    (folder / "fold_1" / "sweep.json").unlink()
    with pytest.raises(StitchError, match=r"sweep.json is missing: fold 1 is not trained to its end"):
        stitch(world, only_validation=True)


def test_plans_of_another_kind_are_not_overwritten(world):
    before = tree(world.root)
    with pytest.raises(StitchError, match="holds other plans.*-o_p"):
        stitch(world, plans_name=PLANS, trainer_a=TRAINER)
    assert tree(world.root) == before
