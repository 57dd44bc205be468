"""The stitched ensemble that teaches: found, checked, and loaded as it is deployed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.inference.find import stitched_configuration
from nnunetv2_stitch.parties.checkpoint import load_checkpoint, require_digest
from nnunetv2_stitch.parties.checkpoint_writing import require_deployed
from nnunetv2_stitch.parties.model_folder import ModelFolder, read_model_folder
from nnunetv2_stitch.stitching.network import SETTING_KEY, StitchedEnsemble
from nnunetv2_stitch.stitching.plans import Stitching
from nnunetv2_stitch.stitching.setting import party_names


def read_teacher(folder: str) -> ModelFolder:
    """A stitched model's folder.

    Raises:
        StitchError: no folder, or not of a stitched model.
    """
    configuration = stitched_configuration(
        folder, f"It stitches this one to another; nnUNetv2_train_party -m {folder} trains this one on; nnU-Net's own "
                f"nnUNetv2_train trains one on your images alone")
    model = read_model_folder(folder)
    if model.configuration != configuration or not model.is_stitched:
        raise StitchError(f"{folder} is no stitched model; give the folder that nnUNetv2_train_stitch made, under its "
                          f"own name")
    return model


def load_teacher(model: ModelFolder, fold: int | str) -> tuple[StitchedEnsemble, tuple[int, ...] | None]:
    """One fold's network as it is deployed, frozen, on the CPU; and the spatial axes that its input may be mirrored
    along, None for none.

    Input `(B, C, *spatial)` on the host's preprocessed grid, output logits `(B, K, *spatial)`.

    Raises:
        StitchError: a checkpoint that is missing, broken or not of a stitched model.
    """
    path = model.checkpoint_path(fold)
    checkpoint = load_checkpoint(path)
    weights = checkpoint["network_weights"]
    if SETTING_KEY not in weights:
        raise StitchError(f"{path} holds no stitched ensemble; check the folder given with -m")
    require_deployed(path, checkpoint)
    network = StitchedEnsemble(model.num_input_channels, model.num_outputs,
                               **model.configuration_manager.network_arch_init_kwargs)
    network.load_state_dict(weights)
    axes = checkpoint.get("inference_allowed_mirroring_axes")
    return network.eval().requires_grad_(False), tuple(axes) if axes else None


def beyond_weights(model: ModelFolder) -> dict[str, Any]:
    """What a teacher is and its checkpoint does not say: the options of its `gate`, and which of its parties are
    `adapted`. Without what it has not."""
    found = Stitching.find(model.configuration_manager.configuration)
    parents = found.parents if found else ()
    adapted = [name for name, p in zip(party_names(max(2, len(parents))), parents) if p.adapted]
    gate = model.configuration_manager.network_arch_init_kwargs.get("gate")
    return {**({"gate": gate} if gate else {}), **({"adapted": adapted} if adapted else {})}


def partners_of(model: ModelFolder) -> list[dict[str, str]]:
    """Whose models, beside the host's, are in a teacher: dataset and licence of each, as its sender calls them."""
    found = Stitching.find(model.configuration_manager.configuration)
    return [{"dataset": p.shown, "licence": p.licence} for p in (found.parents[1:] if found else ())]


def taught_by(said: Mapping[str, Any], weight: float = 1.0) -> str:
    """What teaches, in words, from `beyond_weights` and the weight of the teacher's term: whether each patch has its
    own shares of the parties, and whose networks were trained on with the host's images."""
    if not weight:
        return "labels alone"
    adapted = "".join(f", with the {name} adapted to the host's images" for name in said.get("adapted", ()))
    return ("a stitched ensemble with a gate" if said.get("gate") else "a stitched ensemble") + adapted


def require_teacher(model: ModelFolder, fold: int | str, entry: Mapping[str, Any], again: str) -> None:
    """Raises StitchError unless a fold's teacher is still the one of the student's `entry`; `again`: what to do then.
    """
    require_digest(model.checkpoint_path(fold), entry["teacher"], again)
    if beyond_weights(model).get("gate") != entry.get("gate"):
        raise StitchError(f"the gate in {model.path}/plans.json is not the one that the student was begun with; "
                          f"{again}")


def require_patch(model: ModelFolder, patch_size: Sequence[int]) -> None:
    """Raises StitchError unless the teacher's networks can read patches of this size."""
    arguments = model.configuration_manager.network_arch_init_kwargs
    bridges = arguments.get("bridges") or [None] * (len(arguments["parents"]) - 1)
    # A partner behind a bridge reads what the bridge makes of the patch, which fits it always.
    for spec, bridge in zip(arguments["parents"], [None, *bridges]):
        strides = spec["arch_kwargs"].get("strides")
        if strides is None or bridge is not None:
            continue
        multiple = np.prod([np.broadcast_to(s, len(patch_size)) for s in strides], axis=0)
        if any(p % m for p, m in zip(patch_size, multiple)):
            raise StitchError(f"the student's patches of {'x'.join(map(str, patch_size))} do not fit the teacher: "
                              f"its networks need multiples of {'x'.join(map(str, multiple))}; use -student host")


def teach(network: StitchedEnsemble, data: torch.Tensor) -> torch.Tensor:
    """The teacher's logits `(B, K, *spatial)` of a batch, without gradients."""
    with torch.no_grad():  # not inference_mode, whose tensors may not take part in a backward pass
        return network(data)
