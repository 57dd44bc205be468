"""Least squares shrinks variance. Does it matter? Closed-form stitches that keep the target's variance beside plain
ones, by position: METHOD's hypothesis is that the last positions, right before the head, gain most."""

import numpy as np
from lab import Lab, evenly, parser, show

from nnunetv2_stitch.stitching.setting import Setting


def main() -> None:
    args = parser(__doc__).parse_args()
    lab, networks, rows = Lab(args), {}, []
    for name, keep in (("least squares", False), ("variance kept", True)):
        networks[name] = lab.supernet()
        lab.direct(networks[name], lab.batches(lab.host), keep_variance=keep)
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
