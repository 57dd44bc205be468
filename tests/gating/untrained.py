"""A gated model folder of trained parents whose stitches are drawn at random: what tests of prediction need."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from nnunetv2_stitch.bridging.names import NO_MAPS
from nnunetv2_stitch.bridging.report import require_bridge
from nnunetv2_stitch.gating.gate import GateOptions
from nnunetv2_stitch.gating.signature import Signature
from nnunetv2_stitch.gating.tile_features import tile_features
from nnunetv2_stitch.parties.checkpoint import load_checkpoint, load_weights, network_weights
from nnunetv2_stitch.parties.model_folder import ModelFolder
from nnunetv2_stitch.stitching.description import build_parent
from nnunetv2_stitch.stitching.plans import Training, lay_out, stitched_plans, supernet_from_plans
from nnunetv2_stitch.stitching.setting import Setting

QUANTILE = 0.1
LEAD = 0.4  # so that what is like nobody's is answered by all, the host ahead
CPU = torch.device("cpu")


def gated_folder(root: Path, host: ModelFolder, partners: Sequence[ModelFolder], images: Sequence[Path],
                 maps: Sequence = ()) -> Path:
    """Fold 0 of all, averaged at one position with each partner. `images`: of each party, for its signature."""
    bridges = [require_bridge(host, p, m).bridge for p, m in zip(partners, maps or [NO_MAPS] * len(partners))]
    layout = lay_out(host, partners, bridges=bridges)
    of_party = {name: [k for k, m in enumerate(layout.matches) if m.party == name] for name in list(layout.nodes)[1:]}
    positions = sorted(found[2 * len(found) // 3] for found in of_party.values())
    setting = Setting.average_at(*positions)
    plans = stitched_plans(host, partners, layout, "nnUNetStitchPlans", setting, positions,
                           Training("nnUNetTrainerStitch"), [], bridges)
    configuration = plans["configurations"][host.configuration]
    options = GateOptions((True,) * len(partners), QUANTILE, wholly=0.98, lead=LEAD)
    configuration["architecture"]["arch_kwargs"]["gate"] = options.to_json()
    network = supernet_from_plans(configuration, host.num_input_channels, host.num_outputs)
    for name, party in zip(network.parties, (host, *partners)):
        path = party.checkpoint_path(0)
        whole = build_parent(party.network_spec, party.num_input_channels, party.num_outputs)
        load_weights(getattr(network, name), network_weights(load_checkpoint(path)), path, whole)
    torch.manual_seed(0)
    for parameter in network.stitch_parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    network = network.deployed(setting)
    checkpoint = load_checkpoint(host.checkpoint_path(0))
    axes = checkpoint["inference_allowed_mirroring_axes"]
    assert axes, "without mirroring less is shown"
    own, theirs = [], []
    for name, folder in zip(network.parties[1:], images[1:]):
        own.append(_signature(lambda x, n=name: network.gated.features(n, x), host, images[0], axes))
        theirs.append(_signature(lambda x, n=name: network.gated.features(n, x), host, folder, axes))
    network.gate.set(own, theirs, QUANTILE)
    folder = root / f"nnUNetTrainerStitch__nnUNetStitchPlans__{host.configuration}"
    (folder / "fold_0").mkdir(parents=True)
    for name, value in (("plans.json", plans), ("dataset.json", host.dataset_json)):
        (folder / name).write_text(json.dumps(value))
    torch.save({"network_weights": network.state_dict(), "trainer_name": "nnUNetTrainer",
                "init_args": {"configuration": host.configuration, "fold": 0},
                "inference_allowed_mirroring_axes": axes}, folder / "fold_0" / "checkpoint_final.pth")
    return folder


def _signature(features, host: ModelFolder, folder: Path, axes) -> Signature:
    """Of some images as the host preprocesses them; the last one is for validation."""
    cases = []
    for path in sorted(folder.glob("*_0000*")):
        data = host.configuration_manager.preprocessor_class(verbose=False).run_case(
            [str(path)], None, host.plans_manager, host.configuration_manager, host.dataset_json)[0]
        cases.append(data)
    found = [tile_features(features, part, host.configuration_manager, CPU, mirroring_axes=axes)
             for part in (cases[:-1], cases)]
    return Signature.of(*found)


def images_of_all_kinds(root: Path, folders: Sequence[Path]) -> Path:
    """An image of each of two folders, and noise in the geometry of the first, which is like nobody's."""
    root.mkdir()
    first, second = (sorted(f.glob("*_0000*"))[0] for f in folders)
    ending = "".join(first.suffixes)
    shutil.copy(first, root / f"a_0000{ending}")
    shutil.copy(second, root / f"b_0000{ending}")
    image = sitk.ReadImage(str(first))
    noise = sitk.GetImageFromArray(np.random.default_rng(0).exponential(100, sitk.GetArrayFromImage(image).shape))
    noise.CopyInformation(image)
    sitk.WriteImage(sitk.Cast(noise, sitk.sitkFloat32), str(root / f"noise_0000{ending}"))
    return root
