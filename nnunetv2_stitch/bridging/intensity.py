"""From the host's intensity normalisation of a channel to the partner's.

nnU-Net normalises before it resamples, and the network sees patches of the result. What can be undone from there are
maps with constants (CT, RGB, none). Statistics of the whole image are gone; but an affine change of the input is undone
by an InstanceNorm behind the first convolution, so such partners can be served nearly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nnunetv2_stitch.bridging.bridge import Intensity

CT, ZSCORE, NONE, RANGE, RGB = ("CTNormalization", "ZScoreNormalization", "NoNormalization", "RescaleTo01Normalization",
                                "RGBTo01Normalization")
CT_CONSTANTS = ("mean", "std", "percentile_00_5", "percentile_99_5")
KNOWN = (CT, ZSCORE, NONE, RANGE, RGB)


@dataclass(frozen=True)
class Normalisation:
    """How a party normalises one channel. `constants`: nnU-Net's foreground intensities of it, for CT."""

    scheme: str
    masked: bool = False
    constants: tuple[tuple[str, float], ...] = ()

    @classmethod
    def of(cls, scheme: str, masked: bool, properties: Mapping) -> Normalisation:
        read = () if scheme in (ZSCORE, NONE, RANGE, RGB) else tuple(
            (k, float(properties[k])) for k in CT_CONSTANTS if k in properties)
        return cls(scheme, bool(masked) and scheme == ZSCORE, read)

    def __str__(self) -> str:
        values = ", ".join(f"{k} {v:.5g}" for k, v in self.constants)
        return self.scheme.removesuffix("Normalization") + (" inside the mask" if self.masked else "") \
            + (f" ({values})" if values else "")


@dataclass(frozen=True)
class Verdict:
    """`kind`: same, bridged, approximate or blocks; `how` says it in words."""

    kind: str
    how: str = ""


def bridge_intensity(host: Normalisation, partner: Normalisation, instance_norm: bool) -> tuple[Intensity, Verdict]:
    """The map from the host's values to the partner's, and how good it is. `instance_norm`: the partner's network has
    one behind its first convolution."""
    if host == partner:
        return Intensity(), Verdict("same")
    if host.scheme not in KNOWN or partner.scheme not in KNOWN:
        unknown = partner.scheme if partner.scheme not in KNOWN else host.scheme
        return Intensity(), Verdict("blocks", f"{unknown} is not a scheme of nnU-Net's")
    back, forth = _constants(host), _constants(partner)
    if back and forth:
        return _exact(back, forth)
    if host.scheme == partner.scheme == ZSCORE:
        how = "one party takes mean and deviation inside the mask only"
    elif forth:
        how = f"the host's {_short(host)} values cannot be taken back to what {_short(partner)} needs"
    else:
        how = f"{_short(partner)} by the patch instead of the whole image"
        if back and back[2] is not None:
            how += f", and without what the host clips (below {back[2]:g}, above {back[3]:g})"
    if not instance_norm:
        return Intensity(), Verdict("blocks", f"{how}, and the partner has no InstanceNorm that would undo it")
    per_patch = None if forth else {ZSCORE: "zscore", RANGE: "range"}[partner.scheme]
    return Intensity(per_patch=None if host.scheme == partner.scheme else per_patch), Verdict(
        "approximate", f"{how}; the InstanceNorm behind the first convolution takes out scale and shift")


def _constants(normalisation: Normalisation) -> tuple | None:
    """(mean, deviation, lower, upper) of a map `(clip(x, lower, upper) - mean) / deviation`, or None."""
    if normalisation.scheme == NONE:
        return 0.0, 1.0, None, None
    if normalisation.scheme == RGB:
        return 0.0, 255.0, None, None
    if normalisation.scheme == CT and len(normalisation.constants) == len(CT_CONSTANTS):
        mean, deviation, lower, upper = (v for _, v in normalisation.constants)
        return mean, max(deviation, 1e-8), lower, upper
    return None


def _exact(back: tuple, forth: tuple) -> tuple[Intensity, Verdict]:
    mean, deviation, lower, upper = forth
    intensity = Intensity(back[1] / deviation, (back[0] - mean) / deviation,
                          None if lower is None else (lower - mean) / deviation,
                          None if upper is None else (upper - mean) / deviation)
    lost = [f"{name} {mine:g}" for name, mine, theirs, sign in
            (("below", back[2], lower, 1), ("above", back[3], upper, -1))
            if mine is not None and (theirs is None or sign * mine > sign * theirs)]
    if lost:
        return intensity, Verdict("bridged", f"exact, but for values {' and '.join(lost)}, which the host clips")
    return intensity, Verdict("bridged", "exact")


def _short(normalisation: Normalisation) -> str:
    return normalisation.scheme.removesuffix("Normalization")
