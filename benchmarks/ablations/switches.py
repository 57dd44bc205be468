"""Switches in training: every one always on average, always stitched, a random share of positions on average in each
step, or each switch drawn at random among own, stitched and average."""

import random

from lab import Lab, parser, show

from nnunetv2_stitch.fitting.closed_form import all_average
from nnunetv2_stitch.stitching.setting import STATES, Setting


def random_share(network, rng: random.Random) -> Setting:
    share = rng.random()
    return Setting.average_at(*(p for p in network.positions if rng.random() < share))


def sample_setting(network, rng: random.Random) -> Setting:
    """Random switch states: one share of active switches for the whole step, so that few and many are both seen.

    The other parent's map is used `stitched` or as `average` with equal chance.
    """
    active = rng.random()

    def state():
        return rng.choice(STATES[1:]) if rng.random() < active else STATES[0]

    return Setting({p: (state(), state()) for p in network.positions})


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
