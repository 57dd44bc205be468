"""One fold of one model, whoever made it: read without running anything in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.exchange.manifest import licence_of, received_manifest
from nnunetv2_stitch.exchange.parents import require_parent
from nnunetv2_stitch.fileio import relative_path
from nnunetv2_stitch.parties.checkpoint import load_parent, network_weights, sha256
from nnunetv2_stitch.parties.model_folder import ModelFolder
from nnunetv2_stitch.parties.untrusted_json import printable

MAX_CASES = 10**9


@dataclass(frozen=True)
class Member:
    """One fold of one model. `weights` as its checkpoint names them; `cases`: training cases, None where not said."""

    label: str
    model: ModelFolder
    fold: int | str
    path: str
    sha256: str
    weights: dict[str, torch.Tensor] = field(repr=False)
    mirroring: tuple[int, ...] = ()
    cases: int | None = None
    licence: str = ""

    def to_json(self) -> dict:
        """No path: a record travels with the merged model."""
        return {"label": self.label, "dataset": self.model.dataset_name, "model": self.model.identifier,
                "fold": str(self.fold), "sha256": self.sha256, "training_cases": self.cases, "licence": self.licence}

    def as_start(self) -> dict:
        """What a record keeps of the checkpoint that a fold begins with (`records.StartRecord`)."""
        return {"fold": str(self.fold), "checkpoint": relative_path(self.path, self.model.path), "sha256": self.sha256,
                "mirroring": list(self.mirroring)}


def read_member(model: ModelFolder, fold: int | str, label: str) -> Member:
    """The model's weights of `fold`, else of `all`, else of its first fold.

    Raises:
        StitchError: a stitched model, the second stage of a cascade, or what `require_parent` refuses.
    """
    if model.is_stitched or model.is_cascaded:
        what = "a stitched ensemble" if model.is_stitched else "the second stage of a cascade"
        raise StitchError(f"{model.path} is {what}, which cannot be merged; give models of one plain network each")
    if not model.folds:
        raise StitchError(f"{model.path} has no fold with {model.checkpoint_name}: choose another with -chk")
    own = fold if fold in model.folds else "all" if "all" in model.folds else model.folds[0]
    path = model.checkpoint_path(own)
    require_parent(model, own)
    checkpoint, digest = load_parent(path), sha256(path)
    return Member(label, model, own, path, digest, tensors_of(checkpoint, path), _axes(checkpoint), _cases(model),
                  licence_of(model))


def tensors_of(checkpoint: Mapping, path: str) -> dict[str, torch.Tensor]:
    """Raises StitchError if something among the weights is no tensor."""
    weights = network_weights(checkpoint)
    wrong = next((n for n, v in weights.items() if not isinstance(v, torch.Tensor)), None)
    if wrong is not None:
        raise StitchError(f"{path}: {printable(wrong, 80)} is no tensor; copy the checkpoint again from its source")
    return weights


def _axes(checkpoint: Mapping) -> tuple[int, ...]:
    given = checkpoint.get("inference_allowed_mirroring_axes")
    return tuple(a for a in given if a in (0, 1, 2)) if isinstance(given, (list, tuple)) else ()


def _cases(model: ModelFolder) -> int | None:
    manifest = received_manifest(model)
    said = manifest.training_cases if manifest is not None else model.dataset_json.get("numTraining")
    return said if isinstance(said, int) and not isinstance(said, bool) and 0 < said <= MAX_CASES else None
