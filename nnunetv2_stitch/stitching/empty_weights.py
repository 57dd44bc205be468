"""Networks on the meta device, of which only the shapes count."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

FILLS = frozenset((torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.fill_, torch.Tensor.zero_))


class _WithoutFilling(TorchFunctionMode):
    def __torch_function__(self, func: Callable, types: Sequence[type], args: Sequence = (),
                           kwargs: Mapping[str, Any] | None = None) -> Any:
        return args[0] if func in FILLS and args[0].is_meta else func(*args, **(kwargs or {}))


@contextmanager
def nothing_filled_on_meta() -> Iterator[None]:
    """Under `torch.device("meta")` weights have no values, and yet torch takes longer to draw none than to draw them:
    within the context it does not. On other devices nothing changes."""
    if torch.empty(0).is_meta:
        with _WithoutFilling():
            yield
    else:
        yield
