"""A partner under other terms than the host's: its own stock pipeline beside the bridged one."""

import contextlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from model_folders import edit, make_model, results  # noqa: F401 -- fixtures

from nnunetv2_stitch.bridging.names import NO_MAPS
from nnunetv2_stitch.bridging.report import require_bridge
from nnunetv2_stitch.parties.model_folder import read_model_folder


def predict_stock(folder, images: Path, output: Path, fold=0) -> dict[str, np.ndarray]:
    """What stock nnU-Net predicts with a model folder, case by case, without mirroring."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    with contextlib.redirect_stdout(io.StringIO()):
        predictor.initialize_from_trained_model_folder(str(folder), (fold,))
        predictor.predict_from_files_sequential(str(images), str(made(output)))
    return segmentations(output)


def predict_bridged(host, partner, images: Path, output: Path, maps=NO_MAPS, answer="partner") -> dict:
    """What the same partner answers inside the stitched network, which reads images in the host's pipeline."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    from nnunetv2_stitch.parties.checkpoint import load_checkpoint, load_weights, network_weights
    from nnunetv2_stitch.stitching.description import build_parent
    from nnunetv2_stitch.stitching.plans import Training, lay_out, stitched_plans, supernet_from_plans
    from nnunetv2_stitch.stitching.setting import Setting

    bridge = require_bridge(host, partner, maps).bridge
    layout = lay_out(host, [partner], bridges=[bridge])
    plans = stitched_plans(host, [partner], layout, "nnUNetStitchPlans", Setting(output=answer), None,
                           Training("nnUNetTrainerStitch"), [], bridges=[bridge])
    network = supernet_from_plans(plans["configurations"][host.configuration], host.num_input_channels,
                                  host.num_outputs)
    for side, party in (("host", host), ("partner", partner)):
        path = party.checkpoint_path(0)
        whole = build_parent(party.network_spec, party.num_input_channels, party.num_outputs)
        load_weights(getattr(network, side), network_weights(load_checkpoint(path)), path, whole)
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.manual_initialization(network, host.plans_manager, host.configuration_manager, [network.state_dict()],
                                    host.dataset_json, "nnUNetTrainer", None)
    with contextlib.redirect_stdout(io.StringIO()):
        predictor.predict_from_files_sequential(str(images), str(made(output)))
    return segmentations(output)


def mean_agreement(a: dict, b: dict, labels=(1, 2)) -> float:
    """Mean Dice between two predictions of the same cases."""
    assert list(a) == list(b) and a
    values = []
    for label in labels:
        both = sum(int(((a[k] == label) & (b[k] == label)).sum()) for k in a)
        values.append(2 * both / max(1, sum(int((x[k] == label).sum()) for k in a for x in (a, b))))
    return float(np.mean(values))


def segmentations(folder: Path) -> dict[str, np.ndarray]:
    import SimpleITK as sitk
    return {f.name: sitk.GetArrayFromImage(sitk.ReadImage(str(f))) for f in sorted(folder.glob("*.nii.gz"))}


def made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def altered(tmp_path, world2d, nnunet_env):
    """`altered(model folder, plans=..., dataset=..., weights=...)`: a copy under another dataset name whose files were
    changed by these functions; returns the `ModelFolder`."""
    nnunet_env(world2d)  # its trainers

    def alter(folder, plans=None, dataset=None, weights=None, name="Dataset899_Altered"):
        target = tmp_path / "altered" / name / Path(folder).name
        shutil.copytree(folder, target)
        for file, change in (("plans.json", plans), ("dataset.json", dataset)):
            if change is not None:
                value = json.loads((target / file).read_text())
                change(value)
                (target / file).write_text(json.dumps(value))
        if weights is not None:
            for path in target.glob("fold_*/checkpoint_final.pth"):
                checkpoint = torch.load(path, weights_only=False)
                weights(checkpoint["network_weights"])
                torch.save(checkpoint, path)
        return read_model_folder(str(target))
    return alter


@pytest.fixture
def stock_prediction():
    return predict_stock


@pytest.fixture
def bridged_prediction():
    return predict_bridged


@pytest.fixture
def agreement():
    return mean_agreement
