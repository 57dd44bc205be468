"""Which layers get stitches: every matched layer, or one per convolution block (after its activation)."""

from lab import Lab, parser, show


def main() -> None:
    args = parser(__doc__).parse_args()
    lab, rows = Lab(args), []
    for name in ("all", "blocks"):
        network, batches = lab.supernet(name), lab.batches(lab.host)
        lab.direct(network, batches)
        rows.append(lab.score(network, f"{name} ({len(network.positions)}), closed form"))
        lab.train(network, batches)
        rows.append(lab.score(network, f"{name} ({len(network.positions)}), double-batched"))
    show(rows)


if __name__ == "__main__":
    main()
