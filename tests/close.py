"""Whether two ways of computing the same thing agree: the scale of the values decides what is the same."""

from __future__ import annotations

import numpy as np
import torch

# Sums of thousands of products, one layer after another, in any order: errors of some hundred units in the last place.
UNITS = 1000


def assert_same(got, wanted, units: float = UNITS, message: str = "") -> None:
    """`got` equals `wanted` to `units` times the precision of the coarser of both types, relative to the largest of the
    values: what is left of a difference of large numbers is no better than that."""
    got, wanted = (v.detach().cpu() if isinstance(v, torch.Tensor) else torch.as_tensor(np.asarray(v))
                   for v in (got, wanted))
    assert got.shape == wanted.shape, f"{tuple(got.shape)} is not {tuple(wanted.shape)} {message}"
    exact = max(torch.finfo(v.dtype).eps if v.dtype.is_floating_point else 0.0 for v in (got, wanted))
    got, wanted = got.double(), wanted.double()
    assert torch.isfinite(wanted).all() and torch.isfinite(got).all(), f"not finite {message}"
    scale = float(wanted.abs().max()) if wanted.numel() else 0.0
    off = float((got - wanted).abs().max()) if wanted.numel() else 0.0
    assert off <= units * exact * scale, f"off by {off:.3g}, {units * exact * scale:.3g} is allowed {message}"
