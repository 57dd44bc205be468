"""How many bytes of tensors are alive at once, counted while the real code runs on torch's meta device."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CONVOLUTIONS = tuple(getattr(torch.ops.aten, name) for name in (  # inference mode does not break the latter down
    "convolution", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"))
TOO_SMALL_FOR_ONEDNN = 20480  # torch's own limit for single images, of the product of the first four dimensions


@dataclass(frozen=True)
class Need:
    """Bytes in float32 and in mixed precision."""

    full: int
    mixed: int


class LiveBytes(TorchDispatchMode):
    """Counts the memory of every tensor that is made inside, autograd's own included, and when it is let go.

    On the meta device nothing is computed and no memory is taken, so that a network of any size can be looked at. Works
    on every other device alike. What libraries take for themselves inside an operation is not seen, but for
    `cpu_copies`: what convolutions need besides on a CPU, where oneDNN copies input and weights to a layout of its own
    and the output back.

    Example:
        >>> with LiveBytes() as live:
        ...     network(torch.empty(2, 1, 128, 128, 128, device="meta")).sum().backward()
        >>> live.peak, live.now
    """

    def __init__(self, cpu_copies: bool = False):
        super().__init__()
        self.cpu_copies = cpu_copies
        self.now = self.peak = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._meet(tensor.untyped_storage())
        if self.cpu_copies and function.overloadpacket in CONVOLUTIONS:
            self.peak = max(self.peak, self.now + _copied(*args[:2], result))
        return result

    def _meet(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata  # of several tensors on one storage
        if key not in self._known:
            self._known[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.now -= self._known.pop(key)


def _copied(x: torch.Tensor, weight: torch.Tensor, result: torch.Tensor) -> int:
    """Bytes at most at once: the input's copy is let go before the output is copied. 1x1 convolutions need none. torch
    itself computes those of small maps, by writing out the patches of all pixels."""
    kernel = weight.shape[2:].numel()
    if kernel == 1:
        return 0
    upsampling = result.shape[2:].numel() > x.shape[2:].numel()
    if x.shape[0] == 1 and x.shape[:4].numel() <= TOO_SMALL_FOR_ONEDNN and not upsampling:
        return x.shape[1] * kernel * result.shape[2:].numel() * x.element_size()
    return max(x.nbytes + weight.nbytes, result.nbytes)
