"""Whose images the stitches are fitted on: A's alone, as in this package, or both parties', which needs shared data."""

from itertools import chain

from lab import Lab, parser, show


def main() -> None:
    args = parser(__doc__).parse_args()
    lab, rows = Lab(args), []
    for fit in ("closed form", "double-batched"):
        for name in ("A's images", "both parties'", "B's images"):
            sources = {"A's images": [lab.host], "both parties'": [lab.host, lab.partner], "B's images": [lab.partner]}
            loaders = [lab.batches(party) for party in sources[name]]
            batches = chain.from_iterable(zip(*loaders))
            network = lab.supernet()
            lab.direct(network, batches)
            if fit == "double-batched":
                lab.train(network, batches)
            rows.append(lab.score(network, f"{fit}, {name}"))
    show(rows)


if __name__ == "__main__":
    main()
