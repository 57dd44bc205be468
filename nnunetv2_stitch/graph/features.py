"""Feature maps of any network by module path."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from nnunetv2_stitch.errors import StitchError


class _AllSeen(Exception):
    """Stops a forward pass once every wanted feature map is there."""


def features(network: nn.Module, paths: Sequence[str], x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Feature maps of `network` at the modules named by `paths`, for one batch.

    Args:
        network: any module, e.g. an nnU-Net network. Its mode (train or eval) and its parameters are left alone.
        paths: module paths as in `network.named_modules()`, e.g. `["encoder.stages.0", "decoder.stages.2"]`.
        x: input batch `(B, C, *spatial)`.

    Returns:
        path -> output of that module, `(B, channels, *spatial / stride)` for a convolution block. Maps are copied,
        because nnU-Net's activations work in place and would overwrite them. Gradients flow unless switched off by
        the caller. The pass stops after the last wanted layer. A module that is called more than once gives its
        first output.

    Raises:
        StitchError: no module has that path, or the forward pass does not reach it.

    Example:
        >>> maps = features(network, ["decoder.stages.2"], torch.rand(1, 1, 64, 64))
        >>> maps["decoder.stages.2"].shape
    """
    found: dict[str, torch.Tensor] = {}
    hooks = []

    def keep(path):
        def hook(_module, _inputs, output):
            if path not in found:
                found[path] = output.clone() if isinstance(output, torch.Tensor) else output
            if len(found) == len(set(paths)):
                raise _AllSeen
        return hook

    modules = dict(network.named_modules(remove_duplicate=False))
    try:
        for path in dict.fromkeys(paths):
            if path not in modules:
                raise StitchError(f"the network has no module {path!r}; network.named_modules() lists all names")
            hooks.append(modules[path].register_forward_hook(keep(path)))
        try:
            network(x)
        except _AllSeen:
            pass
    finally:
        for hook in hooks:
            hook.remove()
    missing = [p for p in paths if p not in found]
    if missing:
        raise StitchError(f"the forward pass does not reach {', '.join(missing)}")
    return found
