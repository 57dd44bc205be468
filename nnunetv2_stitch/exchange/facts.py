"""What the manifest says about a trained model, read from its own folder; numbers only, nothing about single cases."""

from __future__ import annotations

import json
import os
import re
from importlib.metadata import version
from typing import Any

import nnunetv2_stitch
from nnunetv2_stitch.exchange.manifest import PARTY, Manifest
from nnunetv2_stitch.exchange.plain import is_number
from nnunetv2_stitch.parties.reading import ModelFolder

VERSION = re.compile(r"\d+(\.\d+)+([.+-]?[a-z0-9]+)*")


def versions() -> dict[str, str]:
    """Of what exports."""
    return {"nnunetv2": version("nnunetv2"), "torch": version("torch"), "nnunetv2-stitch": nnunetv2_stitch.__version__}


def versions_of_training(fold_folder: str) -> dict[str, str]:
    """Of what trained, as far as nnU-Net wrote it down: debug.json names the version of torch."""
    said = _readable(os.path.join(fold_folder, "debug.json")).get("torch_version")
    return {"torch": said} if isinstance(said, str) and VERSION.fullmatch(said) else {}


def mean_dice(fold_folder: str, labels: dict[str, Any]) -> dict[str, float | None] | None:
    """Mean Dice by label of the fold's validation; None if there was none."""
    mean = _readable(os.path.join(fold_folder, "validation", "summary.json")).get("mean")
    if not isinstance(mean, dict):
        return None
    # Keys are '1' for a label and '(1, 2)' for a region.
    scores = {tuple(map(int, re.findall(r"\d+", key))): values.get("Dice") for key, values in mean.items()
              if isinstance(values, dict)}
    named = {name: tuple(value) if isinstance(value, (list, tuple)) else (value,) for name, value in labels.items()}
    found = {name: scores[value] for name, value in named.items() if name != "ignore" and value in scores}
    return {name: round(float(dice), 4) if is_number(dice) else None for name, dice in found.items()} or None


def received_manifest(model: ModelFolder) -> Manifest | None:
    """party.json of a model that came from someone else: what is known of it beyond its files."""
    value = _readable(os.path.join(model.path, PARTY))
    return Manifest.from_json(value) if value else None


def network_name(model: ModelFolder) -> str:
    """Class, stages and features, as in `PlainConvUNet, 4 stages, features 8 16 32 32`."""
    spec = model.network_spec
    features = spec["arch_kwargs"].get("features_per_stage", [])
    shown = " ".join(map(str, features)) if isinstance(features, list) else str(features)
    return f"{spec['network_class_name'].split('.')[-1]}, {len(model.configuration_manager.patch_size)}d, " \
           f"{spec['arch_kwargs'].get('n_stages')} stages, features {shown}"


def _readable(path: str) -> dict:
    """A file that is only nice to have: empty if it is missing or is not what nnU-Net writes."""
    try:
        with open(path) as f:
            value = json.load(f)
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
