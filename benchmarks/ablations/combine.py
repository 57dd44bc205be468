"""What an ensemble of both heads averages: probabilities or logits; plain, and with every closed-form stitch active."""

from lab import Lab, parser, show

from nnunetv2_stitch.stitching.setting import COMBINES, Setting


def main() -> None:
    args = parser(__doc__).parse_args()
    lab, rows = Lab(args), []
    network = lab.supernet()
    lab.direct(network, lab.batches(lab.host))
    everywhere = Setting.average_at(*network.positions).switches
    for name, switches in (("plain ensemble", {}), ("stitched everywhere", everywhere)):
        for combine in COMBINES:
            rows.append(lab.score_setting(network, Setting(switches, combine=combine), f"{name}, {combine}"))
    show(rows)


if __name__ == "__main__":
    main()
