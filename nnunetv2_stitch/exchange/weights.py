"""A network's tensors for the road: each once, and back under all the names that nnU-Net gives it; and checkpoints with
nothing but what prediction and stitching read."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass

import safetensors.torch
import torch
from torch import nn

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.exchange.manifest import mirroring_axes
from nnunetv2_stitch.exchange.model_check import STOCK
from nnunetv2_stitch.exchange.zips import MAX_MEMBERS, index_size
from nnunetv2_stitch.parties.checkpoint import first_names, load_checkpoint, load_weights, network_weights
from nnunetv2_stitch.parties.checkpoint_writing import checkpoint_bytes
from nnunetv2_stitch.parties.model_folder import ModelFolder
from nnunetv2_stitch.parties.untrusted_json import is_whole, printable, without_warnings

MAX_HEADER_BYTES = 8 << 20  # of a safetensors file: names and shapes; a large nnU-Net needs a tenth of a MiB
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
READ = ("network_weights", "current_epoch", "inference_allowed_mirroring_axes")


def require_fit(network: nn.Module, weights: Mapping[str, torch.Tensor], where: str) -> None:
    """`weights` are exactly the tensors of `network` (which may be on the meta device), finite and ordinary.

    Raises:
        StitchError: naming `where` and the first tensor that is missing, too much, of another shape or kind, not
            finite, or without memory of its own for all its values.
    """
    state = network.state_dict()
    for name, tensor in weights.items():
        shown = printable(name)
        if name not in state:
            raise StitchError(f"{where} holds tensor {shown}, which the network of its plans.json does not have; take "
                              f"both files from one model folder, trained by a trainer that changes no layers")
        if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.device.type != "cpu" or \
                tensor.is_quantized:
            raise StitchError(f"{where}: {shown} is no ordinary tensor; use a checkpoint as stock nnU-Net saves it")
        own = state[name].dtype
        if tensor.dtype != own and not (own in FLOATS and tensor.dtype in FLOATS):
            raise StitchError(f"{where}: tensor {shown} holds {tensor.dtype} and the network needs {own}; use a "
                              f"checkpoint as stock nnU-Net saves it")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise StitchError(f"{where}: tensor {shown} claims more values than it holds; use a checkpoint as stock "
                              f"nnU-Net saves it")
    with without_warnings():  # that copying to the meta device does nothing
        load_weights(network, weights, where)


def without_duplicates(network: nn.Module, weights: Mapping[str, torch.Tensor], where: str) -> dict[str, torch.Tensor]:
    """Each tensor once, under its first name, in memory of its own so that nothing else travels along.

    Raises:
        StitchError: `weights` do not fit.
    """
    require_fit(network, weights, where)
    kept: dict[str, torch.Tensor] = {}
    for name, first in first_names(network).items():
        if name == first:
            kept[name] = weights[name].detach().clone(memory_format=torch.contiguous_format)
    return kept


def with_duplicates(network: nn.Module, kept: Mapping[str, torch.Tensor], where: str) -> dict[str, torch.Tensor]:
    """The state dict that `without_duplicates` was given, names in the network's order, shared where it shares.

    Raises:
        StitchError: `kept` does not fit the network.
    """
    firsts = first_names(network)
    extra = [name for name in kept if firsts.get(name) != name]
    if extra:
        raise StitchError(f"{where} holds tensor {printable(extra[0])}, which the network of its plans.json does not "
                          f"have under this name; ask the sender for a zip made by nnUNetv2_export_party")
    weights = {name: kept[first] for name, first in firsts.items() if first in kept}
    require_fit(network, weights, where)
    return weights


def read_safetensors(path: str) -> dict[str, torch.Tensor]:
    """Raises StitchError if the file is not of this format or its header is absurd."""
    with open(path, "rb") as f:
        header = int.from_bytes(f.read(8), "little")
    if header > MAX_HEADER_BYTES:
        raise StitchError(f"{path} is damaged: its header would be {header} bytes long; copy the zip again from its "
                          f"source")
    try:
        return safetensors.torch.load_file(path)
    except Exception as error:  # SafetensorError, and what names and types unknown to torch lead to
        raise StitchError(f"{path} is damaged ({printable(error)}); copy the zip again from its source") from error


def require_uncompressed(path: str) -> None:
    """A checkpoint is a zip itself, and torch would unpack whatever size it claims: torch.save compresses nothing.

    Raises:
        StitchError: the checkpoint holds compressed parts, or more than the file can hold.
    """
    try:
        index = index_size(path)
        if index is not None and index[0] > MAX_MEMBERS:
            raise _unlike_torch(path)
        with zipfile.ZipFile(path) as archive:
            infos, end = archive.infolist(), archive.start_dir
    except (OSError, ValueError, struct.error, zipfile.BadZipFile, NotImplementedError):
        return  # no zip, or damaged: load_checkpoint tells these apart
    if any(i.compress_type != zipfile.ZIP_STORED or i.compress_size != i.file_size for i in infos) or \
            sum(i.file_size for i in infos) > end:
        raise _unlike_torch(path)


def _unlike_torch(path: str) -> StitchError:
    return StitchError(f"{path} is refused: it holds compressed or overlapping parts, which torch never writes; ask "
                       f"the sender for a checkpoint as stock nnU-Net saves it")


@dataclass(frozen=True)
class Trained:
    """What was taken from a checkpoint; `dropped` names its other fields."""

    weights: dict[str, torch.Tensor]
    epochs: int | None
    mirroring_axes: tuple[int, ...] | None
    dropped: tuple[str, ...]


def read_checkpoint(path: str) -> Trained:
    """Read a checkpoint of anyone's without running anything in it.

    Raises:
        StitchError: see `load_checkpoint`; or compressed parts, or mirroring axes that are none.
    """
    require_uncompressed(path)
    checkpoint = load_checkpoint(path)
    epochs = checkpoint.get("current_epoch")
    return Trained(network_weights(checkpoint), epochs if is_whole(epochs, 0, 10**9) else None,
                   mirroring_axes(checkpoint.get("inference_allowed_mirroring_axes"), path),
                   tuple(sorted(str(k) for k in checkpoint if k not in READ)))


def clean_checkpoint(model: ModelFolder, fold: int | str, weights: Mapping[str, torch.Tensor], epochs: int | None,
                     axes: tuple[int, ...] | None) -> bytes:
    """A file that stock nnU-Net and this package load as checkpoint_final.pth.

    The trainer is nnU-Net's own whoever trained, because the network was checked to be the one of the plans and a
    receiver need not have the sender's trainer.

    Args:
        weights: the network's, by name.
        epochs: that it was trained, None where that is not known.
        axes: along which a prediction mirrors.
    """
    fields = {
        "network_weights": dict(weights),
        "current_epoch": epochs or 0,
        "init_args": {"plans": model.plans, "configuration": model.configuration, "fold": fold,
                      "dataset_json": model.dataset_json},
        "trainer_name": STOCK,
        "inference_allowed_mirroring_axes": axes,
    }
    return checkpoint_bytes(fields)
