"""The kind: no number is chosen by, averaged or written that is not a number; where there is nothing to choose by, one
line says so."""

import json
import shutil
from pathlib import Path

import pytest
import SimpleITK as sitk
import torch
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from stitched_model import stitch

from nnunetv2_stitch.baselines.stitched import weighted_shares
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import write_json
from nnunetv2_stitch.merging.run import MergeRequest, merge_guided
from nnunetv2_stitch.parties.datasets import data_digest
from nnunetv2_stitch.selection.dice import NothingToScore
from nnunetv2_stitch.selection.party_sweep import sweep_party
from nnunetv2_stitch.selection.rules import choose
from nnunetv2_stitch.selection.sweep import Sweep


def blank(world, fold: int) -> None:
    """The references of a fold's validation cases, raw and preprocessed, hold nothing but background from now on."""
    folder = world.preprocessed / world.host.dataset
    cases = json.loads((folder / "splits_final.json").read_text())[fold]["val"]
    data_folder = str(folder / "nnUNetPlans_2d")
    kind = infer_dataset_class(data_folder)
    dataset = kind(data_folder, cases)
    for case in cases:
        data, segmentation, _, properties = dataset.load_case(case)
        data, segmentation = data[:], 0 * segmentation[:]
        path = str(world.raw / world.host.dataset / "labelsTr" / f"{case}.nii.gz")
        sitk.WriteImage(sitk.ReadImage(path) * 0, path)
        for old in Path(data_folder).glob(f"{case}*"):
            old.unlink()
        kind.save_case(data, segmentation, properties, str(Path(data_folder, case)))


def strict(path: Path):
    """As readers of JSON do that know the standard only."""
    def refuse(what):
        raise AssertionError(f"{path}: {what}")
    return json.loads(path.read_text(), parse_constant=refuse)


def near(model: Path, copy: Path) -> str:
    """A model folder with nearly the same weights."""
    path = Path(shutil.copytree(model, copy)) / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(path, weights_only=False)
    weights = {k: v * 1.001 for k, v in checkpoint["network_weights"].items()}
    torch.save({**checkpoint, "network_weights": weights}, path)
    return str(copy)


@pytest.mark.slow
def test_a_fold_without_foreground_takes_no_part_in_any_choice(stitched2d, copy_world, nnunet_env, thread_pools):
    world = nnunet_env(copy_world(stitched2d.world))
    folder = world.results / stitched2d.folder.relative_to(stitched2d.world.results)
    blank(world, 0)
    (folder / "fold_0" / "sweep.json").unlink()
    preprocessed = world.preprocessed / world.host.dataset
    for plans in (folder / "plans.json", preprocessed / "nnUNetStitchPlans.json"):  # as if it were trained on these
        value = json.loads(plans.read_text())
        value["configurations"]["2d"]["stitching"]["data"] = data_digest(str(preprocessed), "nnUNetPlans_2d")
        plans.write_text(json.dumps(value))
    result = stitch(world, epochs=2, iterations=4, continue_training=True)
    sweeps = [strict(folder / f"fold_{f}" / "sweep.json") for f in (0, 1)]
    assert set(sweeps[0]["ensemble"]) == {None} == set(sweeps[0]["baselines"].values())
    assert "nothing can be chosen by Dice" in "".join(p.read_text() for p in (folder / "fold_0").glob("*.txt"))
    own = choose([Sweep.from_json(sweeps[1])], "1")[1]
    assert result.positions == {0: (own,), 1: (own,)}
    assert any("validation cases of fold 0 hold no foreground" in line for line in result.remarks)
    assert strict(folder / "stitch_selection.json")["validation_dice"][0]["chosen"] is None
    assert all(strict(p) is not None for p in folder.glob("*.json"))
    assert "nan" not in (folder / "MODEL_CARD.md").read_text().lower().split()

    shares = str(folder), "2d"
    where = str(world.results), str(world.preprocessed), torch.device("cpu")
    assert weighted_shares(*shares, [0, 1], *where) == weighted_shares(*shares, [1], *where)
    with pytest.raises(NothingToScore, match="validation cases of fold 0 hold no foreground label"):
        weighted_shares(*shares, [0], *where)

    model, said = world.model(world.host), []
    found = sweep_party(str(folder), 801, positions=[2], device="cpu", progress=False, say=said.append)
    assert [s.fold for s in found.sweeps] == [1] and [*found.model_sha256] == ["1"]
    assert "fold 0 is left out: none of its cases holds any of the model's labels" in said
    with pytest.raises(StitchError, match="none of the 5 cases of fold 0 holds any of the model's labels"):
        sweep_party(str(folder), 801, positions=[2], folds=[0], device="cpu", progress=False)
    models = [str(model), near(model, world.root / "near" / model.name)]
    with pytest.raises(NothingToScore, match="validation cases of fold 0 of Dataset801_HostBlobs hold no foreground"):
        merge_guided(MergeRequest(models, 801, "2d", 0, "Merged", steps=1), "cpu")

    write_json(str(folder / "fold_1" / "sweep.json"), {**sweeps[0], "fold": 1})
    before = (folder / "plans.json").read_text()
    for rule in ("1", "2", "loo", "guided"):
        with pytest.raises(StitchError, match="nothing can be chosen by Dice") as caught:
            stitch(world, rule=rule, only_selection=True)
        assert "\n" not in str(caught.value)
    assert (folder / "plans.json").read_text() == before
