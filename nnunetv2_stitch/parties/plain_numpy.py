"""Numpy scalars in a checkpoint, read without letting the file call numpy.

nnU-Net's checkpoints hold numpy scalars ('logging', '_best_ema'), which torch's `weights_only` loading refuses. Numpy's
own `scalar` and `dtype` are C code that takes far more than numbers, and was not written for untrusted input. The two
stand-ins here take plain numbers and nothing else. They are known to the unpickler by numpy's names, of numpy 1 and of
numpy 2, whichever is installed.
"""

from __future__ import annotations

import pickle
import re

import numpy as np


class PlainDtype:
    """Stands in for `numpy.dtype`: booleans, integers and floats only."""

    def __init__(self, code, align: bool = False, copy: bool = False):
        if not isinstance(code, str) or not re.fullmatch("b1|[iu][1248]|f[248]", code):
            raise pickle.UnpicklingError(f"numpy type {code!r} is not a plain number")
        self.code, self.order = code, "<"

    def __setstate__(self, state) -> None:
        # (version, byte order, ...): all other entries say nothing about plain numbers.
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"byte order {order!r}")
        self.order = order


def plain_scalar(dtype, data=None) -> np.generic:
    """Stands in for `numpy.core.multiarray.scalar`."""
    if not isinstance(dtype, PlainDtype):
        raise pickle.UnpicklingError("a numpy scalar without its type")
    data = data.encode("latin1") if isinstance(data, str) else data
    stored = np.dtype(dtype.order + dtype.code)
    if not isinstance(data, bytes) or len(data) != stored.itemsize:
        raise pickle.UnpicklingError("a numpy scalar whose size does not fit its type")
    return np.frombuffer(data, stored).astype(dtype.code)[0]


#: For `torch.serialization.safe_globals`.
STAND_INS = (
    (plain_scalar, "numpy.core.multiarray.scalar"),
    (plain_scalar, "numpy._core.multiarray.scalar"),
    (PlainDtype, "numpy.dtype"),
)
