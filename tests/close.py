"""Whether two ways of computing the same thing agree: precision and the scale of the values decide what is the same.

Where it can be had, double precision is better: then a wrong result and rounding are many digits apart.
"""

from __future__ import annotations

import numpy as np
import torch

# Sums of thousands of products, one layer after another, in any order: errors of some hundred units in the last place.
UNITS = 1000


def assert_same(got, wanted, units: float = UNITS, precision: torch.dtype | None = None, message: str = "") -> None:
    """`got` equals `wanted` to `units` of the last place of the largest of the values: what is left of a difference of
    large numbers is no better than that. `precision`: that something on the way was computed in; default: the coarser
    of both."""
    got, wanted = (v.detach().cpu() if isinstance(v, torch.Tensor) else torch.as_tensor(np.asarray(v))
                   for v in (got, wanted))
    assert got.shape == wanted.shape, f"{tuple(got.shape)} is not {tuple(wanted.shape)} {message}"
    last = max(torch.finfo(dtype).eps for dtype in (precision or got.dtype, got.dtype, wanted.dtype))
    got, wanted = got.double(), wanted.double()
    assert torch.isfinite(wanted).all() and torch.isfinite(got).all(), f"not finite {message}"
    off, allowed = float((got - wanted).abs().max()), units * last * float(wanted.abs().max())
    assert off <= allowed, f"off by {off:.3g}, {allowed:.3g} is allowed {message}"
