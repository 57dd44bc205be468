"""Checkpoints of other parties: untrusted files, read without running anything in them."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import zipfile
from collections.abc import Mapping

import torch
from torch import nn

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.parties.plain_numpy import STAND_INS
from nnunetv2_stitch.parties.read_cache import once
from nnunetv2_stitch.parties.trust import is_trusting
from nnunetv2_stitch.parties.untrusted_json import printable

WRAPPERS = ("module.", "_orig_mod.")
OF_TRAINING = ("optimizer_state", "grad_scaler_state")  # two thirds of a checkpoint, for its own training only
HEAD = re.compile(r"(.+\.)?seg_layers\.\d+\.(weight|bias)")  # of which prediction uses the last


def load_checkpoint(path: str) -> dict:
    """An nnU-Net checkpoint, on the CPU. Only tensors, plain Python values and numpy numbers are read, unless the user
    trusts this run's models.

    Raises:
        StitchError: the file is missing, unreadable, cut short, no nnU-Net checkpoint, or asks for anything else to be
            imported or called; nothing of it has then been run.
    """
    _require_archive(path)
    try:
        with torch.serialization.safe_globals([] if is_trusting() else list(STAND_INS)):
            checkpoint = torch.load(path, map_location="cpu", weights_only=not is_trusting())
    except pickle.UnpicklingError as error:
        raise StitchError(_refusal(path, str(error))) from error
    except Exception as error:  # whatever a malformed file leads torch to: its type says nothing to the user
        raise StitchError(f"{path} is damaged and cannot be read ({_first_line(error)}); copy it again and compare "
                          f"its sha256 with the sender's") from error
    weights = checkpoint.get("network_weights") if isinstance(checkpoint, dict) else None
    if not isinstance(weights, Mapping) or not all(isinstance(k, str) for k in weights):
        raise StitchError(f"{path} is not an nnU-Net checkpoint (it has no network_weights); give a "
                          f"checkpoint_final.pth that nnU-Net wrote")
    return checkpoint


def load_parent(path: str) -> dict:
    """A parent's checkpoint as `load_checkpoint`, without what only its own training needs; read once in a run
    (`once.reading_once`). The tensors are shared, so copy what is to be changed.

    Raises:
        StitchError: see `load_checkpoint`.
    """
    def read() -> dict:
        return {k: v for k, v in load_checkpoint(path).items() if k not in OF_TRAINING}

    def size(checkpoint: Mapping) -> int:
        stored = [t.untyped_storage() for t in checkpoint["network_weights"].values() if isinstance(t, torch.Tensor)]
        return sum({s.data_ptr(): s.nbytes() for s in stored}.values())

    return dict(once(("checkpoint", is_trusting()), path, read, size))


def network_weights(checkpoint: Mapping) -> dict[str, torch.Tensor]:
    """The network's tensors by name, without the prefixes that DDP and torch.compile put before every name."""
    weights = dict(checkpoint["network_weights"])
    while weights and (wrapper := next((w for w in WRAPPERS if all(k.startswith(w) for k in weights)), None)):
        weights = {k[len(wrapper):]: v for k, v in weights.items()}
    return weights


def sha256(path: str) -> str:
    """Hexadecimal SHA-256 of a file, which is read once in a run (`once.reading_once`).

    Raises:
        StitchError: the file cannot be read.
    """
    return once(("sha256",), path, lambda: _sha256(path))


def _sha256(path: str) -> str:
    """In blocks of 1 MiB."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as f:
            while block := f.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise _unreadable(path, error) from error
    return digest.hexdigest()


def require_digest(path: str, digest: str | None, again: str) -> None:
    """Raises StitchError unless the file is still the one that plans were made for; `again`: what to do then."""
    if sha256(path) != digest:
        raise StitchError(f"{path} is not the checkpoint that the plans were made for (sha256 differs); {again}")


def first_names(network: nn.Module) -> dict[str, str]:
    """Every name in the state dict, and the first of the names that its tensor has there.

    A decoder holds a reference to its encoder, and blocks list their layers twice: up to four names for one tensor.
    """
    firsts: dict[int, str] = {}
    return {name: firsts.setdefault(id(tensor), name) for name, tensor in network.state_dict(keep_vars=True).items()}


def load_weights(module: nn.Module, weights: Mapping[str, torch.Tensor], path: str,
                 whole: nn.Module | None = None) -> None:
    """Fill every parameter and buffer of `module`, and see that every tensor of `weights` is used: by its name, as a
    further name of a tensor, or as a head for deep supervision. Nothing is changed if anything is wrong.

    Args:
        path: where the weights come from, for messages.
        whole: the network that the weights are of, where `module` is traced from it and lacks its further names. May be
            on the meta device.

    Raises:
        StitchError: a tensor of `module` is missing, is of another shape or holds NaN or infinity; or `weights` hold a
            tensor that the network does not have, or two values under two names of one tensor.
    """
    state = module.state_dict()
    _require_known(first_names(module if whole is None else whole), weights, path)
    for name, own in state.items():
        given = weights.get(name)
        if not isinstance(given, torch.Tensor):
            raise StitchError(f"{path} lacks tensor {name} of shape {tuple(own.shape)}; its weights belong to another "
                              f"network than its plans.json describes: take both from one model folder")
        if given.shape != own.shape:
            raise StitchError(f"{path}: tensor {name} is of shape {tuple(given.shape)}, the network of its plans.json "
                              f"needs {tuple(own.shape)}; take both files from one model folder")
        if given.is_floating_point() and not torch.isfinite(given).all():
            raise StitchError(f"{path}: tensor {name} holds NaN or infinity, so this training diverged; use another "
                              f"checkpoint with -chk or another fold")
    module.load_state_dict({name: weights[name] for name in state})


def _require_known(firsts: Mapping[str, str], weights: Mapping[str, torch.Tensor], path: str) -> None:
    """What a network does not know it does not use: then its answer is not the one of the network that was trained."""
    unknown = next((name for name in weights if name not in firsts and not HEAD.fullmatch(name)), None)
    if unknown is not None:
        raise StitchError(f"{path} holds tensor {printable(unknown)}, which the network of its plans.json does not "
                          f"have; take both files from one model folder, trained by a trainer that changes no layers")
    for name, first in firsts.items():
        one, other = weights.get(name), weights.get(first)
        if name != first and isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor) and \
                one.shape == other.shape and not _same(one, other):
            raise StitchError(f"{path}: {name} and {first} are one tensor of the network but differ in the file; use "
                              f"a checkpoint as stock nnU-Net saves it")


def _same(one: torch.Tensor, first: torch.Tensor) -> bool:
    if one.dtype != first.dtype:
        return False
    shared = one.data_ptr() == first.data_ptr() and one.stride() == first.stride()
    return shared or torch.equal(one, first) or not torch.isfinite(first).all()  # NaN has a message of its own


def _require_archive(path: str) -> None:
    """A checkpoint is a zip archive: tell apart the ways in which a file is none before torch reads it."""
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as f:
            start = f.read(4)
    except OSError as error:
        raise _unreadable(path, error) from error
    if size == 0:
        raise StitchError(f"{path} is empty; copy it again from its source")
    if not zipfile.is_zipfile(path):
        if start[:2] == b"PK":
            raise StitchError(f"{path} is cut short at {size} bytes; copy it again from its source, or remove it "
                              f"to train it again")
        raise StitchError(f"{path} is not a checkpoint of nnU-Net v2; give a checkpoint_final.pth that nnU-Net wrote")


def _unreadable(path: str, error: OSError) -> StitchError:
    if isinstance(error, FileNotFoundError):
        return StitchError(f"{path} does not exist; check the model folder, the fold and -chk")
    return StitchError(f"{path} cannot be read ({error.strerror}); it must be a file that you may read")


def _refusal(path: str, message: str) -> str:
    named = re.search(r"GLOBAL (\S+)", message)
    what = f"it asks for {named[1]}" if named else f"it holds more than weights: {_first_line(message)}"
    return (f"{path} is refused because it could run code ({what}); nothing of it was run: a model of your own is read "
            f"with --trust, which nnUNetv2_export_party has too; else ask the sender for a checkpoint as stock nnU-Net "
            f"saves it, or for the zip of nnUNetv2_export_party")


def _first_line(error) -> str:
    """Of torch's messages, which run over many lines, the part that says what is wrong."""
    text = str(error).split("WeightsUnpickler error:")[-1].strip() or type(error).__name__
    return text.splitlines()[0][:120]
