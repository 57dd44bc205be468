"""The demo itself, with tiny networks and lengths: only that it runs and reports, not that anything is learned."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import world as worlds

from nnunetv2_stitch.demo.settings import DemoSettings
from nnunetv2_stitch.demo.story import run_demo
from nnunetv2_stitch.entrypoints.stitch_demo import print_result

TINY = DemoSettings(features=(4, 8, 8), batch_size=2, trainer=worlds.TRAINER, stitch_epochs=1, stitch_iterations=2)


@pytest.mark.slow
def test_whole_demo(tmp_path, monkeypatch, thread_pools, capsys):
    monkeypatch.setenv("nnUNet_extTrainer", str(worlds.TRAINERS))
    said = []
    folder = tmp_path / "demo"
    result = run_demo(str(folder), device="cpu", settings=TINY, say=said.append)
    assert {(row["party"][0], row["model"]) for row in result.rows} == {
        (key, model) for key in "AB" for model in ("A alone", "B alone", "plain ensemble", "stitched")}
    assert {len(row["cases"]) for row in result.rows if row["party"][0] == "A"} == {12}
    assert {len(row["cases"]) for row in result.rows if row["party"][0] == "B"} == {13}
    assert all(np.isfinite(row["dice"]) for row in result.rows)
    assert all(Path(path).stat().st_size > 100 for path in result.files.values())
    assert (Path(result.model_folder) / "fold_0" / "checkpoint_final.pth").is_file()
    assert "other people" in Path(result.files["table"]).read_text()
    assert any("epoch 1 of 1" in line for line in said)
    assert not any(str(folder) in line for line in Path(result.files["table"]).read_text().splitlines())

    # What is called A alone is A's own model: the same voxels as nnU-Net's predictor gives for it.
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    stock = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
    for model, dataset in (("A_alone", "Dataset911_BrainS1T1"), ("B_alone", "Dataset913_BrainCOLIN")):
        stock.initialize_from_trained_model_folder(
            str(folder / "nnUNet_results" / dataset / f"{worlds.TRAINER}__nnUNetPlans__2d"), (0,))
        image = folder / "nnUNet_raw" / "Dataset911_BrainS1T1" / "imagesTs" / "BrainS1T1_023_0000.nii.gz"
        out = tmp_path / f"{model}.nii.gz"
        stock.predict_from_files_sequential([[str(image)]], [str(out)[:-len(".nii.gz")]])
        ours = folder / "predictions" / model / "Dataset911_BrainS1T1" / "BrainS1T1_023.nii.gz"
        import nibabel
        np.testing.assert_array_equal(nibabel.load(out).dataobj, nibabel.load(ours).dataobj)

    print_result(result)
    printed = capsys.readouterr().out
    for words in ("plain ensemble", "What this cannot show", "nnUNetv2_train_stitch DATASET_A DATASET_B"):
        assert words in printed

    # Going on after the end does nothing; after the last step was lost it repeats that step alone.
    state = json.loads((folder / "demo_state.json").read_text())
    del state["done"]["evaluate"]
    (folder / "demo_state.json").write_text(json.dumps(state))
    said.clear()
    again = run_demo(str(folder), device="cpu", resume=True, say=said.append)
    assert sum("done before" in line for line in said) == 7
    assert again.rows == result.rows
