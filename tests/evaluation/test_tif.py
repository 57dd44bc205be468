"""A 3d tif has its spacing in a JSON beside it, which belongs to the image wherever that is read, written or moved."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from stitched_model import read_segmentations

from nnunetv2_stitch.distillation.unlabelled import fingerprint
from nnunetv2_stitch.evaluation.entries import ModelEntry, TestSet
from nnunetv2_stitch.evaluation.evaluate import evaluate
from nnunetv2_stitch.evaluation.worst_cases import worst_panels

SPACING = [1.0, 1.25, 1.5]  # (z, y, x)


@pytest.fixture
def tif(world3d, tmp_path, nnunet_env):
    """The host's model as nnU-Net trains it on tif, and its test cases in that form."""
    nnunet_env(world3d)
    host = world3d.host
    model = Path(shutil.copytree(world3d.model(host), tmp_path / host.dataset / world3d.model(host).name))
    for file, change in (("plans.json", {"image_reader_writer": "Tiff3DIO"}),
                         ("dataset.json", {"file_ending": ".tif"})):
        path = model / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    for kind, end in (("images", "_0000"), ("labels", "")):
        folder = tmp_path / "raw" / f"{kind}Ts"
        folder.mkdir(parents=True)
        for name, voxels in read_segmentations(world3d.raw / host.dataset / f"{kind}Ts").items():
            case = name[:-len(".nii.gz")].removesuffix("_0000")
            tifffile.imwrite(folder / f"{case}{end}.tif", voxels)
            (folder / f"{case}.json").write_text(json.dumps({"spacing": SPACING}))
    shutil.copy(model / "dataset.json", tmp_path / "raw")
    return model, tmp_path / "raw"


@pytest.mark.slow
def test_evaluation_of_a_model(tif, tmp_path):
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    model, raw = tif
    found = evaluate([ModelEntry("A alone", str(model))], [TestSet("A", str(raw))], output=str(tmp_path / "out"),
                     resamples=50)
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), (0,))
    (tmp_path / "stock").mkdir()
    predictor.predict_from_files_sequential(str(raw / "imagesTs"), str(tmp_path / "stock"))
    folder = Path(found.predictions["A alone"]["A"])
    for path in (tmp_path / "stock").glob("*.tif"):
        np.testing.assert_array_equal(tifffile.imread(folder / path.name), tifffile.imread(path))
        beside = [json.loads((f / f"{path.stem}.json").read_text()) for f in (folder, tmp_path / "stock")]
        assert beside == [{"spacing": SPACING}] * 2
    assert not [line for line in found.remarks if "elsewhere" in line]
    assert {panel["aspect"] for figure in worst_panels(found, "A") for panel in figure} == {1 / 1.25}

    (raw / "imagesTs" / "ts_001.json").unlink()  # nnU-Net warns, and takes 1 mm
    said = []
    found = evaluate([ModelEntry("A alone", str(model))], [TestSet("A", str(raw))], output=str(tmp_path / "again"),
                     resamples=50, say=said.append)
    assert [line for line in said if line.startswith("A, case ts_001: WARNING no spacing file found")]
    assert [line for line in found.remarks if line.startswith("1 predictions of A alone on A lie elsewhere")]


def test_another_spacing_is_another_image(tmp_path):
    (tmp_path / "a_0000.tif").touch()
    (tmp_path / "a.json").write_text(json.dumps({"spacing": SPACING}))
    before = fingerprint(str(tmp_path), ".tif")
    (tmp_path / "a.json").write_text(json.dumps({"spacing": [1.0, 1.0, 1.25]}))
    assert fingerprint(str(tmp_path), ".tif") != before
