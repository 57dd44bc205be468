"""Stitches that take turns (-positions_per_pass): all in every step, or a part of the positions per step; in as many
steps, and in four times as many."""

from itertools import cycle

from lab import Lab, parser, show

from nnunetv2_stitch.fitting.double_batched import double_batched_loss, groups
from nnunetv2_stitch.stitching.setting import Setting


def train_in_turns(lab: Lab, network, batches, parts: int, steps: int) -> None:
    turns = cycle(groups(network.positions, -(-len(network.positions) // parts)))
    turn: set[int] = set()

    def next_turn(net) -> Setting:
        turn.clear()
        turn.update(next(turns))
        return Setting.average_at(*turn)

    def loss(net, x):
        return double_batched_loss(net, x, compared=turn)

    lab.train(network, batches, steps, loss, next_turn)


def main() -> None:
    args = parser(__doc__).parse_args()
    lab, rows = Lab(args), []
    for parts, longer in ((1, 1), (4, 1), (4, 4), (16, 1), (16, 4)):
        network, batches = lab.supernet(), lab.batches(lab.host)
        lab.direct(network, batches)
        train_in_turns(lab, network, batches, parts, longer * args.steps)
        what = "all positions per step" if parts == 1 else f"a {'quarter' if parts == 4 else 'sixteenth'} of them"
        rows.append(lab.score(network, f"{what}, {longer * args.steps} steps"))
    show(rows)


if __name__ == "__main__":
    main()
