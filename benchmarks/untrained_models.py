"""Model folders of two parents and of their stitched ensemble, with untrained 3d networks, and a case to predict."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import SimpleITK as sitk
import torch

from nnunetv2_stitch.fileio import write_json
from nnunetv2_stitch.graph import layer_nodes, match_star, trace
from nnunetv2_stitch.stitching.description import build_parent
from nnunetv2_stitch.stitching.network import CLASS_PATH, StitchedEnsemble
from nnunetv2_stitch.stitching.setting import Setting, party_names

CONFIGURATION, TRAINER = "3d_fullres", "nnUNetTrainer"
DATASET_JSON = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "a": 1, "b": 2}, "numTraining": 1,
                "file_ending": ".nii.gz"}
CHANNELS, CLASSES = 1, 3


@dataclass(frozen=True)
class Models:
    """Paths of model folders."""

    stitched: str
    parents: tuple[str, ...]


def write_models(folder: str, architecture: dict, patch: Sequence[int], spacing: Sequence[float],
                 progress: float = 0.7) -> Models:
    """Two parents of one architecture and the ensemble that averages them at one position."""
    torch.manual_seed(0)
    networks = [build_parent(architecture, CHANNELS, CLASSES) for _ in range(2)]
    nodes = layer_nodes(trace(networks[0]), CHANNELS)
    matches = [asdict(m) for m in match_star(dict.fromkeys(party_names(2), nodes))]
    net = StitchedEnsemble(CHANNELS, CLASSES, [architecture] * 2, matches, supernet=True)
    for party, network in zip(net.parties, networks):
        weights = network.state_dict()
        module = getattr(net, party)
        module.load_state_dict({k: weights[k] for k in module.state_dict()})
    setting = Setting.average_at(net.positions[int(progress * len(net.positions))])
    stitched = {"network_class_name": CLASS_PATH, "_kw_requires_import": [],
                "arch_kwargs": {"parents": [architecture] * 2, "matches": matches, "setting": setting.to_json()}}
    parents = tuple(write_model(os.path.join(folder, f"Dataset90{i}_{name}"), "nnUNetPlans", architecture,
                                network.state_dict(), patch, spacing)
                    for i, (name, network) in enumerate(zip("AB", networks), start=1))
    return Models(write_model(os.path.dirname(parents[0]), "nnUNetStitchPlans", stitched,
                              net.deployed(setting).state_dict(), patch, spacing), parents)


def write_model(dataset_folder: str, plans_name: str, architecture: dict, weights: dict, patch: Sequence[int],
                spacing: Sequence[float]) -> str:
    folder = os.path.join(dataset_folder, f"{TRAINER}__{plans_name}__{CONFIGURATION}")
    os.makedirs(os.path.join(folder, "fold_0"))
    resampling = {f"resampling_fn_{what}": "resample_data_or_seg_to_shape" for what in ("data", "seg", "probabilities")}
    orders = {f"resampling_fn_{what}_kwargs": {"is_seg": what == "seg", "order": order, "order_z": 0,
                                               "force_separate_z": None}
              for what, order in (("data", 3), ("seg", 1), ("probabilities", 1))}
    configuration = {"data_identifier": f"nnUNetPlans_{CONFIGURATION}", "preprocessor_name": "DefaultPreprocessor",
                     "batch_size": 2, "patch_size": list(patch), "spacing": list(spacing), "batch_dice": False,
                     "normalization_schemes": ["ZScoreNormalization"], "use_mask_for_norm": [False],
                     "architecture": architecture, **resampling, **orders}
    write_json(os.path.join(folder, "plans.json"), {
        "dataset_name": os.path.basename(dataset_folder), "plans_name": plans_name, "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2], "image_reader_writer": "SimpleITKIO", "label_manager": "LabelManager",
        "experiment_planner_used": "ExperimentPlanner", "foreground_intensity_properties_per_channel": {"0": {}},
        "configurations": {CONFIGURATION: configuration}})
    write_json(os.path.join(folder, "dataset.json"), DATASET_JSON)
    torch.save({"network_weights": weights, "trainer_name": TRAINER, "init_args": {"configuration": CONFIGURATION},
                "inference_allowed_mirroring_axes": (0, 1, 2)}, os.path.join(folder, "fold_0", "checkpoint_final.pth"))
    return folder


def write_case(folder: str, size: Sequence[int], spacing: Sequence[float], channels: int = CHANNELS,
               ending: str = ".nii.gz") -> list[str]:
    """A smooth image of `size` voxels `(x, y, z)` and `spacing` `(z, y, x)` per channel; the files."""
    rng = np.random.default_rng(0)
    files = []
    for channel in range(channels):
        coarse = torch.from_numpy(rng.normal(size=(1, 1, *(max(2, s // 16) for s in size[::-1])))).float()
        smooth = torch.nn.functional.interpolate(coarse, size=tuple(size[::-1]), mode="trilinear")[0, 0]
        volume = sitk.GetImageFromArray((1000 + 300 * smooth).to(torch.int16).numpy())
        volume.SetSpacing([float(s) for s in spacing[::-1]])
        files.append(os.path.join(folder, f"case_{channel:04d}{ending}"))
        sitk.WriteImage(volume, files[-1])
    return files
