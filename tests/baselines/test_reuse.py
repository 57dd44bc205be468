"""Whatever a comparison reuses is identified by everything that made it: parents, folds, data, settings, budget, seed.

The reference is the same comparison in a world in which nothing was made before.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import stitched_model
import torch
import world as worlds
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunetv2_stitch.baselines.compare import compare
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.inference.find import find_stitched_model
from nnunetv2_stitch.parties.checkpoint import load_checkpoint
from nnunetv2_stitch.parties.model_folder import read_model_folder
from nnunetv2_stitch.pipeline import Request, prepare
from nnunetv2_stitch.pipeline.identity import unlike_trained
from nnunetv2_stitch.pipeline.prepare import examine

THIRD = "Dataset805_PartnerBlobs"  # of the partner's short name, so that pooled data collide
SHORT = {"device": "cpu", "progress": False, "tta": False, "folds": [0], "epochs": 1, "iterations": 1,
         "baseline_epochs": 1, "baseline_iterations": 1, "positions": [2, 41], "search_steps": 1}
ROWS = ["B_alone", "plain_ensemble", "stitched", "finetuned_B_on_A", "guided_merge", "distilled", "pooled"]


@pytest.fixture
def world(world2d, copy_world, nnunet_env, thread_pools):
    return nnunet_env(with_a_third_party(copy_world(world2d)))


def with_a_third_party(world: worlds.World) -> worlds.World:
    """Its model and its cases are real ones of the partner's that the partner does not answer with: its other fold."""
    for folder in (world.raw, world.preprocessed, world.results):
        shutil.copytree(folder / world.partner.dataset, folder / THIRD)
    zero, one = (world.results / THIRD / world.model(world.partner).name / f"fold_{f}" for f in (0, 1))
    shutil.rmtree(zero)
    one.rename(zero)
    data = world.preprocessed / THIRD / f"{worlds.PLANS}_{world.configuration}"
    for file in data.glob("tr_000*"):
        file.unlink()
    splits = world.preprocessed / THIRD / "splits_final.json"
    splits.write_text(splits.read_text().replace('"tr_000"', '"tr_001"'))
    return world


def run(world, partner, **arguments):
    return compare(world.host.dataset, partner, **{**SHORT, **arguments})


def segmentations(result) -> dict:
    """By row and test set the files' bytes."""
    folder = Path(result.folder) / "predictions"
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.nii.gz"))}


@pytest.mark.slow
def test_each_row_of_a_second_comparison_is_of_its_own_partner(world, world2d, tmp_path, monkeypatch):
    """As if neither the user's own stitched model nor a comparison with somebody else had ever been made; and what a
    comparison makes never gets in the way of what was made to be used."""
    users = stitched_model.stitch(world, folds=[0], epochs=1, iterations=1, positions=[2, 41])
    before = stitched_model.tree(Path(users.model_folder))
    first = run(world, world.partner.dataset, rows=ROWS)
    assert first.model_folders["stitched"] == users.model_folder  # made of the same, so taken as it is
    said = []
    second = run(world, THIRD, rows=ROWS, say=said.append)
    assert any("was made with other parents" in line and "name the zip with -m_a or -m_b" in line for line in said)
    assert stitched_model.tree(Path(users.model_folder)) == before
    assert find_stitched_model(world.host.dataset) == users.model_folder

    again = worlds.World(Path(shutil.copytree(world2d.root, tmp_path / "again")), world2d.dim)
    for name, value in with_a_third_party(again).env.items():
        monkeypatch.setenv(name, value)
    alone = run(again, THIRD, rows=ROWS)
    found, expected, others = map(segmentations, (second, alone, first))
    assert len(expected) == 2 * 3 * (1 + len(ROWS)) and found == expected
    for row in ROWS[:-1]:
        assert any(found[k] != others.get(k.replace(THIRD, world.partner.dataset)) for k in found
                   if k.startswith(f"{row}/")), f"{row} does not depend on the partner, so this proves nothing"
    pooled = [Path(r.model_folders["pooled"]).parent.name for r in (first, second)]
    assert pooled == [f"Dataset{i}_HostBlobsAndPartnerBlobs" for i in (999, 998)]
    with pytest.raises(StitchError, match="made for a comparison only.*-p: nnUNetStitchPlans_"):
        find_stitched_model(again.host.dataset)
    name = Path(alone.model_folders["stitched"]).name.split("__")[1]
    assert find_stitched_model(again.host.dataset, plans=name) == alone.model_folders["stitched"]


@pytest.mark.slow
def test_a_quick_look_is_not_taken_for_the_full_comparison(world, tmp_path):
    rows = ["stitched", "finetuned_B_on_A"]
    quick = run(world, world.partner.dataset, rows=rows, folder=str(tmp_path / "quick"))
    full = run(world, world.partner.dataset, rows=rows, folder=str(tmp_path / "full"), epochs=2, baseline_epochs=2)
    for row in rows:
        epochs = [load_checkpoint(f"{r.model_folders[row]}/fold_0/checkpoint_final.pth")["current_epoch"]
                  for r in (quick, full)]
        assert epochs == [1, 2], row
    with pytest.raises(StitchError, match="started with other epochs, baseline_epochs"):
        run(world, world.partner.dataset, rows=rows, folder=str(tmp_path / "quick"), epochs=2, baseline_epochs=2,
            resume=True)


@pytest.mark.slow
def test_every_row_answers_with_the_checkpoint_that_was_asked_for(world, tmp_path):
    """Rows of finished models against stock prediction with the same checkpoint; trained rows start from it."""
    best = "checkpoint_best.pth"
    for party in (world.host, world.partner):  # a best one that is really another one
        fold = world.model(party) / "fold_0"
        shutil.copyfile(world.model(party) / "fold_1" / "checkpoint_final.pth", fold / best)
    result = run(world, world.partner.dataset, rows=["B_alone", "finetuned_B_on_A"], checkpoint_name=best)
    for row, party in (("A_alone", world.host), ("B_alone", world.partner)):
        for tested in (world.host, world.partner):
            stock = nnUNetPredictor(device=torch.device("cpu"), use_mirroring=False, allow_tqdm=False,
                                    perform_everything_on_device=False)
            stock.initialize_from_trained_model_folder(str(world.model(party)), (0,), best)
            out = tmp_path / row / tested.dataset
            out.mkdir(parents=True)
            stock.predict_from_files_sequential(str(world.test_images(tested)), str(out))
            stitched_model.assert_equal_voxels(out, Path(result.folder) / "predictions" / row / tested.dataset, 3)
    tuned = Path(result.model_folders["finetuned_B_on_A"])
    (tuned / "fold_0" / best).unlink()
    again = run(world, world.partner.dataset, rows=["finetuned_B_on_A"], checkpoint_name=best,
                folder=str(tmp_path / "again"))
    assert again.details["B fine-tuned on A"] == \
        f"1 epochs of 1 iterations; checkpoint_final.pth, because its training keeps no {best}"


@pytest.mark.slow
def test_a_stitched_model_is_the_one_asked_for_only_if_every_fold_was_trained_so(stitched2d, copy_world, nnunet_env):
    """Plans are of the last training; what a fold is, its own checkpoint says."""
    world = nnunet_env(copy_world(stitched2d.world))
    request = Request(world.host.dataset, world.partner.dataset, epochs=2, iterations=4)
    assert unlike_trained(examine(request)) == []
    assert unlike_trained(examine(replace(request, rule="3", position=41))) == []  # deployed otherwise, trained alike
    for changes, said in (({"epochs": 3}, ["epochs"]), ({"seed": 1}, ["seed"]), ({"fold_b": 1}, ["parents"]),
                          ({"positions": [2]}, ["networks, layers or positions"]), ({"half_targets": True},
                                                                                    ["half_targets"])):
        assert unlike_trained(examine(replace(request, **changes))) == said
    assert unlike_trained(examine(replace(request, fit="direct"))) is None
    plans = world.preprocessed / world.host.dataset / "nnUNetStitchPlans.json"
    text = plans.read_text()
    plans.write_text(text.replace('"num_epochs": 2', '"num_epochs": 3'))  # as the training of a further fold leaves it
    assert text != plans.read_text() and unlike_trained(examine(replace(request, epochs=3))) == ["epochs"]
    data = next((world.preprocessed / world.host.dataset / f"{worlds.PLANS}_2d").glob("tr_000.b2nd"))
    data.write_bytes(data.read_bytes() + b"0")
    assert unlike_trained(examine(request)) == ["data"]


@pytest.mark.slow
def test_parents_are_checked_before_anything_under_their_name_is_taken(stitched2d, copy_world, nnunet_env):
    """Also by --dry_run, and where only the copy of the plans beside the folds is left."""
    world = nnunet_env(copy_world(stitched2d.world))
    shutil.copytree(world.results / world.partner.dataset, world.results / "Dataset806_Other")
    request = Request(world.host.dataset, "Dataset806_Other", epochs=2, iterations=4)
    with pytest.raises(StitchError, match="made for other parents.*-o_p"):
        prepare(request, dry_run=True)
    prepare(replace(request, plans_name="nnUNetOtherPlans"), dry_run=True)
    prepare(replace(request, dataset_b=world.partner.dataset), dry_run=True)
    (world.preprocessed / world.host.dataset / "nnUNetStitchPlans.json").unlink()
    with pytest.raises(StitchError, match="made for other parents.*-o_p"):
        prepare(request, continue_training=True)
    assert read_model_folder(str(world.model(world.host))).folds == (0, 1)
