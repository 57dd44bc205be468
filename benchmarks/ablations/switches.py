"""Switches in training: every one always on average, always stitched, a random share of positions on average in each
step, or each switch drawn at random among own, stitched and average."""

import random

from lab import Lab, parser, show

from nnunetv2_stitch.fitting.closed_form import all_average
from nnunetv2_stitch.fitting.double_batched import sample_setting
from nnunetv2_stitch.stitching.setting import Setting


def random_share(network, rng: random.Random) -> Setting:
    share = rng.random()
    return Setting.average_at(*(p for p in network.positions if rng.random() < share))


def main() -> None:
    args = parser(__doc__).parse_args()
    lab, rng, rows = Lab(args), random.Random(args.seed), []
    ways = {
        "all on average": all_average,
        "all stitched": lambda net: Setting({p: ("stitched", "stitched") for p in net.positions}),
        "random share on average": lambda net: random_share(net, rng),
        "sampled": lambda net: sample_setting(net, rng),
    }
    for name, setting in ways.items():
        network, batches = lab.supernet(), lab.batches(lab.host)
        lab.direct(network, batches)
        lab.train(network, batches, setting=setting)
        rows.append(lab.score(network, name))
    show(rows)


if __name__ == "__main__":
    main()
