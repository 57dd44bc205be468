"""Least squares shrinks variance. Does it matter? Closed-form stitches that keep the target's variance beside plain
ones, by position: METHOD's hypothesis is that the last positions, right before the head, gain most."""

from dataclasses import replace

import numpy as np
from lab import Lab, evenly, parser, show

from nnunetv2_stitch.fitting.closed_form import Affine, DirectMatching, Moments
from nnunetv2_stitch.stitching.setting import Setting

MAX_GAIN = 3.0  # where next to nothing is explained, noise is not blown up without bound


class VarianceKept(Moments):
    """Least squares explains a part of the target's variance and has no more than this part itself. Here every channel
    of the translated map is scaled around its mean to the target's variance, at the price of a larger squared error."""

    def solve(self, ridge: float = 1e-6) -> tuple[Affine, Affine]:
        mean, covariance = self.mean_and_covariance()
        a, b = slice(0, self.split), slice(self.split, None)
        return tuple(kept(found, covariance[source, source], covariance[target, target].diagonal(), mean[source],
                          mean[target])
                     for found, (source, target) in zip(super().solve(ridge), ((b, a), (a, b))))


def kept(found: Affine, covariance, wanted, source_mean, target_mean) -> Affine:
    """Scaled to the variances `wanted`; `covariance` is the source's."""
    weight = found.weight.double()
    fitted = ((weight @ covariance) * weight).sum(1)
    weight = weight * (wanted / fitted.clamp_min(1e-12)).clamp(0, MAX_GAIN**2).sqrt()[:, None]
    return replace(found, weight=weight.float(), bias=(target_mean - weight @ source_mean).float())


def variance_kept(network) -> DirectMatching:
    matching = DirectMatching(network)
    matching.moments = {key: VarianceKept(m.split, len(m.first) - m.split) for key, m in matching.moments.items()}
    return matching


def main() -> None:
    args = parser(__doc__).parse_args()
    lab, networks, rows = Lab(args), {}, []
    for name, matching_of in (("least squares", DirectMatching), ("variance kept", variance_kept)):
        networks[name] = lab.supernet()
        lab.direct(networks[name], lab.batches(lab.host), matching_of)
        rows.append(lab.score(networks[name], name))
    show(rows)
    positions = networks["least squares"].positions
    thirds = {"first third": positions[:len(positions) // 3], "last third": positions[-len(positions) // 3:],
              "last position": positions[-1:]}
    rows = []
    for where, there in thirds.items():
        for name, network in networks.items():
            scores = [lab.score_setting(network, Setting.average_at(p), "") for p in evenly(there, 6)]
            rows.append({"": f"{where}, {name}", **{k: float(np.mean([s[k] for s in scores]))
                                                    for k in ("A, test", "B, test")}})
    print()
    show(rows)


if __name__ == "__main__":
    main()
