"""A party's images as statistics of their features under one network: a normal density and how its own cases lie in it.

Ours; it rests on Mahalanobis detection of unlike inputs (Lee et al. 2018, arXiv 1807.03888) and on the shrunk
covariance of Ledoit and Wolf (2004).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.gating.features import STAGES, noise_of

SIGNATURE_FILE = "signature.json"  # in the folder of the fold whose network it was measured under
FORMAT = "nnunetv2-stitch signature"
LEVELS = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)  # of the quantiles
LEAST_SCALE = 1e-3  # of a feature that hardly varies
RIDGE = 1e-3  # on the correlations, so that features that go together keep the matrix positive definite
MAX_FEATURES = 4096
LARGEST = 1e9  # of any number in a signature
LEAST_PIVOT = 1e-6  # of the Cholesky factor, below which single precision cannot tell densities


@dataclass(frozen=True, eq=False)
class Signature:
    """Normal density of a party's training tiles under one network.

    `mean` `(F,)`, `covariance` `(F, F)`, float64. `count`: training tiles. `quantiles`: of the log density of the
    tiles of its own validation cases, at `LEVELS`. `stages`: of the network, see `features.probe`. `coarse`: the
    quantiles of `coarsened`; empty in signatures of earlier versions. Names no case.
    """

    mean: np.ndarray
    covariance: np.ndarray
    count: int
    quantiles: tuple[float, ...]
    stages: int = STAGES
    coarse: tuple[float, ...] = ()

    @classmethod
    def of(cls, training: np.ndarray, validation: np.ndarray, stages: int = STAGES) -> Signature:
        """From features `(N, F)` of training tiles and `(M, F)` of validation tiles.

        Raises:
            StitchError: fewer than two training tiles or no validation tile, or features that are no numbers.
        """
        from sklearn.covariance import ledoit_wolf
        training, validation = (np.asarray(v, dtype=np.float64) for v in (training, validation))
        if len(training) < 2 or not len(validation):
            raise StitchError(f"a signature needs two training tiles and a validation tile, not {len(training)} and "
                              f"{len(validation)}; give the fold more cases")
        if not (np.isfinite(training).all() and np.isfinite(validation).all()):
            raise StitchError("the network's first feature maps are no numbers on its own images, so there is no "
                              "signature; check the checkpoint and the preprocessed images")
        mean, scale = training.mean(0), np.maximum(training.std(0), LEAST_SCALE)
        correlation = ledoit_wolf((training - mean) / scale, assume_centered=True)[0] + RIDGE * np.eye(len(mean))
        density = cls(mean, correlation * np.outer(scale, scale), len(training), (), stages, (0.0,))
        fine, coarse = (tuple(map(float, np.quantile(d.log_density(validation), LEVELS)))
                        for d in (density, density.coarsened()))
        return replace(density, quantiles=fine, coarse=coarse)

    def coarsened(self) -> Signature:
        """For tiles of another size than it was measured with: what that changes in features is no evidence. Itself
        where it is of an earlier version."""
        if not self.coarse:
            return self
        return replace(self, covariance=self.covariance + np.diag(noise_of(self.mean) ** 2), quantiles=self.coarse,
                       coarse=())

    @property
    def factor(self) -> np.ndarray:
        """Lower Cholesky factor of the covariance. Raises LinAlgError where it is not positive definite."""
        return np.linalg.cholesky(self.covariance)

    @property
    def peak(self) -> float:
        """The log density at the mean."""
        return float(-np.log(np.diag(self.factor)).sum() - 0.5 * len(self.mean) * math.log(2 * math.pi))

    def log_density(self, features: np.ndarray) -> np.ndarray:
        """Of features `(N, F)`, `(N,)`."""
        from scipy.linalg import solve_triangular
        whitened = solve_triangular(self.factor, (np.asarray(features, dtype=np.float64) - self.mean).T, lower=True)
        return self.peak - 0.5 * (whitened**2).sum(0)

    def quantile(self, level: float) -> float:
        """Of the own validation tiles' log density, between the levels that were kept."""
        return float(np.interp(level, LEVELS, self.quantiles))

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, "stages": self.stages, "count": self.count, "mean": self.mean.tolist(),
                "covariance": self.covariance.tolist(), "levels": list(LEVELS), "quantiles": list(self.quantiles),
                "coarse": list(self.coarse)}

    @classmethod
    def from_json(cls, value: Any, features: int, where: str) -> Signature:
        """From another party's file. `features`: how many the network has; `where` is for messages.

        Raises:
            StitchError: names the first thing that no signature has.
        """
        def require(fits: Any, what: str) -> None:
            if not fits:
                raise StitchError(f"{where} {what}, as no signature of this network does; ask the sender to export the "
                                  f"model again, if need be with --no_signature")
        require(isinstance(value, Mapping) and value.get("format") == FORMAT, f"is not of the format '{FORMAT}'")
        require(value.get("stages") == STAGES, f"is not of {STAGES} stage{'s' * (STAGES > 1)}")
        require(features <= MAX_FEATURES, f"is of more than {MAX_FEATURES} features")
        require(value.get("levels") == list(LEVELS), f"has other levels than {', '.join(map(str, LEVELS))}")
        count = value.get("count")
        require(isinstance(count, int) and not isinstance(count, bool) and 2 <= count <= 10**12, "has no count")
        numbers = {}
        levels = (len(LEVELS),)
        for key, shape in (("mean", (features,)), ("covariance", (features, features)), ("quantiles", levels),
                           *([("coarse", levels)] if value.get("coarse") else [])):
            numbers[key] = _array(value.get(key), shape)
            require(numbers[key] is not None, f"has a {key} that is not {' x '.join(map(str, shape))} numbers")
            require((np.abs(numbers[key]) <= LARGEST).all(), f"has a {key} with NaN, infinity or huge numbers")
        covariance, quantiles = numbers["covariance"], numbers["quantiles"]
        require(np.allclose(covariance, covariance.T, rtol=1e-6, atol=0), "has a covariance that is not symmetric")
        found = cls(numbers["mean"], (covariance + covariance.T) / 2, count, tuple(map(float, quantiles)),
                    coarse=tuple(map(float, numbers.get("coarse", ()))))
        try:
            require((np.diag(found.factor) >= LEAST_PIVOT).all(), "has a covariance that is nearly singular")
        except np.linalg.LinAlgError:
            require(False, "has a covariance that is not positive definite")
        for kind in (found, found.coarsened()):
            require((np.diff(kind.quantiles) >= 0).all() and kind.quantiles[-1] <= kind.peak + 1e-6,
                    "has quantiles that do not increase or lie above its largest density")
        return found


def _array(value: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    """Nested lists of numbers as an array; None if they are not of this shape."""
    if not isinstance(value, list) or len(value) != shape[0]:
        return None
    if len(shape) > 1:
        rows = [_array(row, shape[1:]) for row in value]
        return None if any(row is None for row in rows) else np.stack(rows)
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in value):
        return None
    try:
        return np.array(value, dtype=np.float64)
    except OverflowError:
        return np.full(shape, math.inf)


def read_signature(fold_folder: str, features: int) -> Signature | None:
    """That of a party's images under the network of one fold of its model; None where it came without.

    Raises:
        StitchError: a file that is no signature of a network with so many features.
    """
    path = os.path.join(fold_folder, SIGNATURE_FILE)
    return Signature.from_json(read_json(path), features, path) if os.path.isfile(path) else None
