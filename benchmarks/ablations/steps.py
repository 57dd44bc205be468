"""How long to train stitches: Dice after more and more double-batched steps; 0 is the closed form."""

from lab import Lab, parser, show


def main() -> None:
    args = parser(__doc__).parse_args()
    lab = Lab(args)
    rows = []
    for steps in (0, args.steps // 4, args.steps // 2, args.steps, 2 * args.steps):
        network, batches = lab.supernet(), lab.batches(lab.host)
        lab.direct(network, batches)
        lab.train(network, batches, steps)
        rows.append(lab.score(network, f"{steps} steps"))
    show(rows)


if __name__ == "__main__":
    main()
