"""How many bytes of tensors are alive at once, counted while the real code runs on torch's meta device."""

from __future__ import annotations

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the memory of every tensor that is made inside, autograd's own included, and when it is let go.

    On the meta device nothing is computed and no memory is taken, so that a network of any size can be looked at. Works
    on every other device alike. What libraries take for themselves inside an operation is not seen.

    Example:
        >>> with LiveBytes() as live:
        ...     network(torch.empty(2, 1, 128, 128, 128, device="meta")).sum().backward()
        >>> live.peak, live.now
    """

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._meet(tensor.untyped_storage())
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
