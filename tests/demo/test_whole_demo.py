"""The demo itself, with tiny networks and lengths: only that it runs and reports, not that anything is learned."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import world as worlds

from nnunetv2_stitch.demo import story
from nnunetv2_stitch.demo.scores import MODELS
from nnunetv2_stitch.demo.settings import DemoSettings
from nnunetv2_stitch.demo.state import STATE_FILE
from nnunetv2_stitch.entrypoints.stitch_demo import print_result, show_report

TINY = DemoSettings(features=(4, 8, 8), batch_size=2, trainer=worlds.TRAINER, adapt_epochs=1, adapt_iterations=2,
                    stitch_iterations=2)


def stock_labels(model: Path, image: Path, out: Path) -> np.ndarray:
    """What nnU-Net's predictor gives for a model folder."""
    import nibabel
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), (0,))
    predictor.predict_from_files_sequential([[str(image)]], [str(out)])
    return np.asarray(nibabel.load(f"{out}.nii.gz").dataobj)


@pytest.mark.slow
def test_whole_demo(tmp_path, monkeypatch, capsys):
    """From scratch to the report; each party alone answers in its own stock pipeline; interrupted, it goes on; and both
    recommendations are carried out."""
    import nibabel
    monkeypatch.setenv("nnUNet_extTrainer", str(worlds.TRAINERS))
    said = []
    folder = tmp_path / "demo"
    run = dict(device="cpu", from_scratch=True, say=said.append, show=show_report)
    result = story.run_demo(str(folder), settings=TINY, **run)
    assert {(row["party"], row["model"]) for row in result.rows} == {(key, m) for key in "AB" for m in MODELS}
    assert {key: {len(r["cases"]) for r in result.rows if r["party"] == key} for key in "AB"} == {"A": {12}, "B": {13}}
    assert all(np.isfinite(row["dice"]) for row in result.rows)
    assert all(Path(path).stat().st_size > 100 for path in result.files.values())
    table = Path(result.files["table"]).read_text()
    assert "other people" in table and str(folder) not in table
    assert any("epoch 1 of 1" in line for line in said)
    # every step but writing the images is preceded by its command
    steps = [i for i, line in enumerate(said) if line.startswith("\n[")][1:]
    assert all(said[i + 1].startswith(("$ nnUNetv2_", story.ADAPTED)) for i in steps)

    image = folder / "nnUNet_raw" / "Dataset911_BrainS1T1" / "imagesTs" / "BrainS1T1_023_0000.nii.gz"
    partner, = (folder / "nnUNet_results" / "stitch_parties").glob("*/*__*__*")
    host = folder / "nnUNet_results" / "Dataset911_BrainS1T1" / f"{worlds.TRAINER}__nnUNetPlans__2d"
    for model, where in (("A_alone", host), ("B_alone", partner)):
        ours = folder / "evaluation" / "predictions" / model / "A" / "BrainS1T1_023.nii.gz"
        np.testing.assert_array_equal(nibabel.load(ours).dataobj, stock_labels(where, image, tmp_path / model))

    print_result(result)
    printed = capsys.readouterr().out
    for words in ("plain ensemble", "What this cannot show", "nnUNetv2_adapt_party DATASET_A -m_b B.zip",
                  "patch size", f"<- {result.way}"):
        assert words in printed

    # Going on repeats the steps that were not done, here with the other recommendation.
    state = json.loads((folder / STATE_FILE).read_text())
    state["done"]["adapt"]["result"]["reached"] ^= True
    for step in ("gate", "evaluate"):
        del state["done"][step]
    (folder / STATE_FILE).write_text(json.dumps(state))
    shutil.rmtree(folder / "evaluation")  # of the other model
    said.clear()
    again = story.run_demo(str(folder), resume=True, **run)
    assert sum("done before" in line for line in said) == len(again.seconds) - 2
    assert {result.way, again.way} == {story.GATED, story.ADAPTED}
    assert [r["dice"] for r in again.rows if r["model"] != "recommended"] == [
        r["dice"] for r in result.rows if r["model"] != "recommended"]
