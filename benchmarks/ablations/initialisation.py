"""What double-batched training starts from: the closed form of direct matching, or torch's own random weights."""

from lab import Lab, parser, show


def main() -> None:
    args = parser(__doc__).parse_args()
    lab, rows = Lab(args), []
    for name in ("closed form", "random"):
        network, batches = lab.supernet(), lab.batches(lab.host)
        if name == "closed form":
            lab.direct(network, batches)
        lab.train(network, batches)
        rows.append(lab.score(network, name))
    show(rows)


if __name__ == "__main__":
    main()
