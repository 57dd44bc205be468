"""Where the double-batched loss compares the two streams: at every switch and both heads, or at either alone."""

from lab import Lab, parser, show

from nnunetv2_stitch.fitting.double_batched import errors_of_streams

POINTS = {"switches and heads": sum, "switches only": lambda errors: errors[0], "heads only": lambda errors: errors[1]}


def main() -> None:
    args = parser(__doc__).parse_args()
    lab, rows = Lab(args), []
    for name, pick in POINTS.items():
        network, batches = lab.supernet(), lab.batches(lab.host)
        lab.direct(network, batches)
        lab.train(network, batches, loss=lambda net, x, pick=pick: pick(errors_of_streams(net, x)))
        rows.append(lab.score(network, name))
    show(rows)


if __name__ == "__main__":
    main()
