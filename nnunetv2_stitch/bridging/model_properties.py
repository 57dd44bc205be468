"""What one party's model says of itself, as far as another must know it: names, normalisation, sizes."""

from __future__ import annotations

import numpy as np

from nnunetv2_stitch.bridging.intensity import Normalisation
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.parties.checkpoint import load_parent
from nnunetv2_stitch.parties.model_folder import ModelFolder


def output_names(party: ModelFolder) -> list[str]:
    """Names of the labels, or regions, in order of the network's outputs."""
    labels = {k: v for k, v in party.dataset_json["labels"].items() if k != "ignore"}
    manager = party.label_manager
    if manager.has_regions:  # outputs are all but the background, in the order of dataset.json
        background = [k for k, v in labels.items() if (v if isinstance(v, (list, tuple)) else [v]) in ([0], (0,))]
        return [k for k in labels if k not in background]
    values = {k: (v[0] if isinstance(v, (list, tuple)) else v) for k, v in labels.items()}
    return sorted(labels, key=lambda k: int(values[k]))


def normalisations(party: ModelFolder) -> list[Normalisation]:
    configuration = party.configuration_manager
    properties = party.intensities
    masks = list(configuration.use_mask_for_norm)
    return [Normalisation.of(scheme, masks[i] if i < len(masks) else False, properties.get(str(i), {}))
            for i, scheme in enumerate(configuration.normalization_schemes)]


def total_stride(party: ModelFolder) -> tuple[int, ...]:
    """What the network's input size must be a multiple of, per axis.

    Raises:
        StitchError: the plans name no strides.
    """
    strides = party.network_spec["arch_kwargs"].get("strides")
    dims = len(party.configuration_manager.patch_size)
    try:
        return tuple(int(v) for v in np.prod([[s] * dims if isinstance(s, int) else list(s) for s in strides], axis=0))
    except (TypeError, ValueError) as error:
        raise StitchError(f"{party.path}/plans.json names no strides of the network; stitching supports "
                          f"PlainConvUNet, ResidualEncoderUNet and ResidualUNet") from error


def has_instance_norm(party: ModelFolder) -> bool:
    return "InstanceNorm" in str(party.network_spec["arch_kwargs"].get("norm_op", ""))


def mirroring(party: ModelFolder) -> str:
    """Axes along which the network has been mirrored in training, from its first fold's checkpoint."""
    if not party.folds:
        return "not trained"
    axes = load_parent(party.checkpoint_path(party.folds[0])).get("inference_allowed_mirroring_axes")
    return ", ".join(map(str, axes)) if axes else "none"


def nnunet_version(party: ModelFolder) -> str | None:
    """Of what exported the model; None of a trained one, which does not say."""
    versions = party.received.get("exported_with")
    return str(versions["nnunetv2"])[:20] if isinstance(versions, dict) and "nnunetv2" in versions else None
