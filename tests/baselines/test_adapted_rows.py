"""The kind: what one row has trained, or the user has, serves every row that needs it, is known by everything that made
it, and answers as the command's own model does."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import stitched_model
import torch

from nnunetv2_stitch.baselines.adapted_rows import _named, adapt_request
from nnunetv2_stitch.baselines.compare import compare
from nnunetv2_stitch.baselines.obstacles import obstacle
from nnunetv2_stitch.baselines.trained_stitches import gated
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.exchange.parents import Partner
from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.parties.checkpoint import load_checkpoint, network_weights, sha256
from nnunetv2_stitch.pipeline import Request
from nnunetv2_stitch.pipeline.prepare import examine
from nnunetv2_stitch.training import adapt_party

SHORT = {"device": "cpu", "progress": False, "tta": False, "folds": [0], "epochs": 1, "iterations": 2,
         "baseline_epochs": 1, "baseline_iterations": 3, "positions": [2, 20, 41]}
ROWS = ["A_longer", "stitched_retain", "adapted", "adapted_only", "stitched_adapted", "gated", "gated_adapted"]


@pytest.fixture
def world(world2d, copy_world, nnunet_env, thread_pools):
    return nnunet_env(copy_world(world2d))


def weights(folder, name="checkpoint_final.pth"):
    return network_weights(load_checkpoint(f"{folder}/fold_0/{name}"))


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in one.items())


@pytest.mark.slow
def test_nothing_is_trained_twice_and_each_row_answers_as_its_commands_model(world, tmp_path):
    users = stitched_model.stitch(world, **stitched_model.SHORT)
    own = adapt_party(world.host.dataset, Partner(dataset=world.partner.dataset), device="cpu", progress=False,
                      validate=False, folds=[0], epochs=1, iterations=3)
    before = stitched_model.tree(Path(users.model_folder), Path(own.model_folder), Path(own.training_folder))
    for name in "CD":
        shutil.copytree(world.raw / world.partner.dataset, tmp_path / name)
    said, unseen = [], {"C": str(tmp_path / "C")}
    result = compare(world.host.dataset, world.partner.dataset, rows=ROWS, unseen=unseen, say=said.append, **SHORT)
    folders, comparison = result.model_folders, result.comparison
    assert stitched_model.tree(*map(Path, (users.model_folder, own.model_folder, own.training_folder))) == before
    assert not result.skipped and comparison.unseen == ["C"]

    # What was there is taken; what is made is made once.
    assert folders["stitched_retain"] == users.model_folder
    assert (folders["adapted"], folders["adapted_only"]) == (own.model_folder, own.training_folder)
    made = sorted(p.name.split("_")[0] + "_" + p.name.split("__")[1].split("_")[0]
                  for p in (world.results / world.host.dataset).glob("nnUNetTrainer*__*"))
    stitched = "nnUNetTrainerStitch_nnUNetStitch"
    assert made == sorted(["nnUNetTrainerTiny_nnUNetPlans", "nnUNetTrainer_nnUNetAdaptedPlans",
                           "nnUNetTrainerAdapted_nnUNetAdaptedPlans", "nnUNetTrainerAdapted_nnUNetLongerPlans",
                           f"{stitched}Plans", f"{stitched}Plans", *[f"{stitched}GatedPlans"] * 2])
    assert sum("training the stitches" in line for line in said) == 1  # with the adapted partner

    # The adapted partner, alpha in the tables' name, is one of the parents; the stitches of gated rows are those there.
    chosen = f"alpha {own.alpha:g}"
    assert list(result.names.values()) == comparison.model_names
    assert [result.names[k] for k in ("adapted", "adapted_only", "gated_adapted")] == [
        f"B adapted to A, {chosen}", "B adapted to A, not moved back, alpha 1", f"gated with B adapted, {chosen}"]
    for row in ("stitched_adapted", "gated_adapted"):
        parent = read_json(f"{folders[row]}/plans.json")["configurations"]["2d"]["stitching"]["parents"][1]
        assert parent["folds"]["0"]["sha256"] == sha256(f"{own.model_folder}/fold_0/checkpoint_final.pth")
    for row, source in (("gated", users.model_folder), ("gated_adapted", folders["stitched_adapted"])):
        assert len({sha256(f"{f}/fold_0/stitches_all.safetensors") for f in (folders[row], source)}) == 1
        arguments = read_json(f"{folders[row]}/plans.json")["configurations"]["2d"]["architecture"]["arch_kwargs"]
        assert ("gate" in arguments) == ("no gate" not in result.details[row.replace("_", " with B ")])

    # Equal budgets: A trained on with B's steps, rate and batches, from its own weights.
    assert same(weights(folders["A_longer"], "checkpoint_start.pth"), weights(world.model(world.host)))
    assert not same(weights(folders["A_longer"]), weights(world.model(world.host)))
    records = [read_json(f"{f}/fold_0/adaptation.json") for f in (folders["A_longer"], own.training_folder)]
    assert len({tuple(r[k] for k in ("num_epochs", "num_iterations_per_epoch", "learning_rate", "seed"))
                for r in records}) == 1
    assert result.details["A trained on"] == \
        "1 epochs of 3 iterations at learning rate 0.001 from A's weights, as the adapted B"

    # Stock prediction with each model, on a hospital that is no party.
    for row in ("A_longer", "adapted", "adapted_only", "gated", "gated_adapted"):
        stock = stitched_model.stock_prediction(Path(folders[row]), tmp_path / "C" / "imagesTs", tmp_path / row,
                                                mirroring=False)
        stitched_model.assert_equal_voxels(stock, Path(result.folder) / "predictions" / row / "C", 3)

    # A further hospital is predicted and nothing else is done.
    models = stitched_model.tree(*map(Path, folders.values()))
    said.clear()
    again = compare(world.host.dataset, world.partner.dataset, rows=ROWS, resume=True, say=said.append,
                    unseen={**unseen, "D": str(tmp_path / "D")}, **SHORT)
    assert again.comparison.unseen == ["C", "D"] and again.comparison.model_names == comparison.model_names
    assert again.details == result.details and not any("fold 0" in line for line in said)
    assert stitched_model.tree(*map(Path, folders.values())) == models
    label = comparison.labels.main
    for model in comparison.model_names:  # D's images are C's
        assert again.comparison.unseen_mean(model, label).mean == pytest.approx(
            comparison.unseen_mean(model, label).mean, nan_ok=True)

    # A gate that was interrupted is put on once more, on the same stitches.
    deployed = weights(folders["gated"])
    for name in ("stitch_selection.json", "fold_0/sweep.json", "fold_0/checkpoint_final.pth"):
        Path(folders["gated"], name).unlink()
    gated(examine(Request(world.host.dataset, world.partner.dataset, folds=[0], epochs=1, iterations=2,
                          positions=[2, 20, 41])), users.model_folder, torch.device("cpu"), False, said.append)
    assert same(weights(folders["gated"]), deployed)
    assert stitched_model.tree(*map(Path, (users.model_folder, own.model_folder, own.training_folder))) == before


@pytest.mark.slow
def test_an_adapted_partner_is_known_by_all_that_made_it(world):
    """Its name is another where anything differs, so it is never taken for what it is not."""
    def name(epochs=None, iterations=None, **changes) -> str:
        job = examine(Request(world.host.dataset, world.partner.dataset, **{"folds": [0], **changes}))
        return _named(job, adapt_request(job, epochs, iterations), "adapted partner", 1)[0].plans_name

    first = name()
    assert first.startswith("nnUNetAdaptedPlans_") and name(positions=[2]) == first  # stitches do not matter
    changed = [name(epochs=2, seed=1), name(epochs=2), name(iterations=3), name(fold_b=1)]
    data = next((world.preprocessed / world.host.dataset / "nnUNetPlans_2d").glob("tr_000.b2nd"))
    data.write_bytes(data.read_bytes() + b"0")
    assert len({first, *changed, name()}) == 6


@pytest.mark.slow
def test_what_stands_in_the_way_of_adapting(world):
    """In the words of the command that would do it, before anything is trained."""
    both = Request(world.host.dataset, world.partner.dataset)
    plans = world.model(world.partner) / "plans.json"
    plans.write_text(plans.read_text().replace("ZScoreNormalization", "RescaleTo01Normalization"))
    keys = ("adapted", "adapted_only", "stitched_adapted", "gated_adapted")
    job = examine(both)
    assert obstacle("adapted", job, None, None) is None  # the images are preprocessed anew
    (world.raw / world.host.dataset).rename(world.raw / "elsewhere")
    assert all("and its images are not in nnUNet_raw" in obstacle(k, job, None, None) for k in keys)
    assert obstacle("A_longer", job, None, None) is obstacle("gated", job, None, None) is None
    third = world.results / "Dataset806_Third"
    shutil.copytree(world.results / world.partner.dataset, third)
    zero, one = (next(third.glob("*")) / f"fold_{f}" for f in (0, 1))
    shutil.rmtree(zero)
    one.rename(zero)
    three = examine(replace(both, folds=[0], more=[Partner("Dataset806_Third")]))
    for key in (*keys, "stitched_retain"):
        assert "several" in obstacle(key, three, None, None)


@pytest.mark.slow
def test_retention_needs_the_scores_of_single_cases(stitched2d, copy_world, nnunet_env):
    """A model that was swept before they were kept is not trained anew for them."""
    world = nnunet_env(copy_world(stitched2d.world))
    job = examine(Request(world.host.dataset, world.partner.dataset, epochs=2, iterations=4))
    assert obstacle("stitched_retain", job, None, None) is None
    next((world.results / world.host.dataset).glob("nnUNetTrainerStitch__*/fold_0/sweep_cases.json")).unlink()
    assert "-rule retain has nothing to go by" in obstacle("stitched_retain", job, None, None)
    other = replace(job, request=replace(job.request, plans_name="nnUNetOtherPlans"))
    assert obstacle("stitched_retain", other, None, None) is None  # which is trained, and swept, for the comparison


def test_a_hospital_is_a_party_or_none(world, tmp_path):
    before = sorted(world.root.rglob("*"))
    partner = str(world.raw / world.partner.dataset)
    for unseen, said in (({"C": partner}, f"-unseen C: .* is the folder of {world.partner.dataset}"),
                         ({world.host.dataset: str(tmp_path)}, "is named twice"),
                         ({"C": str(tmp_path)}, "holds no test cases.*-unseen NAME=DIR")):
        with pytest.raises(StitchError, match=said):
            compare(world.host.dataset, world.partner.dataset, unseen=unseen, **SHORT)
    assert sorted(world.root.rglob("*")) == before
