"""Where the double-batched loss compares the two streams: at every switch and both heads, or at either alone."""

from functools import partial

from lab import Lab, parser, show

from nnunetv2_stitch.fitting.double_batched import POINTS, double_batched_loss


def main() -> None:
    args = parser(__doc__).parse_args()
    lab, rows = Lab(args), []
    for points in POINTS:
        network, batches = lab.supernet(), lab.batches(lab.host)
        lab.direct(network, batches)
        lab.train(network, batches, loss=partial(double_batched_loss, points=points))
        rows.append(lab.score(network, "switches and heads" if points == "all" else f"{points} only"))
    show(rows)


if __name__ == "__main__":
    main()
