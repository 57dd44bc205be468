"""Does R^2 of the closed form predict a good position? Spearman's correlation over positions with the Dice there."""

import numpy as np
from lab import Lab, parser, show
from scipy.stats import spearmanr

from nnunetv2_stitch.fitting.closed_form import DirectMatching
from nnunetv2_stitch.stitching.setting import Setting


def main() -> None:
    args = parser(__doc__).parse_args()
    lab = Lab(args)
    network, batches = lab.supernet(), lab.batches(lab.host)
    matching = DirectMatching(network)
    for _ in range(args.batches):
        matching.update(next(batches))
    r2 = {p: float(np.mean(v)) for p, v in matching.solve().items()}
    rows, dice = [], {}
    for fit in ("closed form", "double-batched"):
        if fit == "double-batched":
            lab.train(network, batches)
        dice = [lab.score_setting(network, Setting.average_at(p), "") for p in network.positions]
        row = {"": fit}
        for party in lab.cases:
            row[party] = float(spearmanr([r2[p] for p in network.positions], [d[party] for d in dice]).statistic)
        rows.append(row)
    show(rows)
    best = max(r2, key=r2.get)
    print(f"\nposition of the highest R^2: {best} ({r2[best]:.3f}); "
          f"positions of the best Dice: " + ", ".join(
              f"{party} {network.positions[int(np.argmax([d[party] for d in dice]))]}" for party in lab.cases))


if __name__ == "__main__":
    main()
