"""Forward pass of the deployed stitched ensemble against the two bare parents, in one run; `-compile` both compiled."""

import torch
from common import bare_parents, medians, parser, precision, say_ratio, start, supernet, workload

from nnunetv2_stitch.stitching.setting import Setting

PROGRESS = 0.7  # of the averaged pair; where it is makes no difference to the cost


@torch.inference_mode()
def main() -> None:
    add = parser(__doc__)
    add.add_argument("-dim", type=int, default=2, choices=(2, 3))
    add.add_argument("-compile", action="store_true", help="torch.compile, against compiled parents and against eager")
    args = add.parse_args()
    start(args)
    spec, x = workload(args, args.dim, 1 if args.size == "small" else None, {2: 256, 3: 64}[args.dim])
    net = supernet(spec, args.device)
    deployed = net.deployed(Setting.average_at(int(PROGRESS * len(net.positions)))).to(args.device)
    parents = bare_parents(spec, args.device)
    networks = {"stitched": [deployed], "bare parents": parents}
    if args.compile:
        networks |= {f"{name}, compiled": [torch.compile(n, fullgraph=True) for n in found]
                     for name, found in networks.items()}

    def call(found):
        def run():
            with precision(args):
                return [n(x) for n in found]
        return run

    times = medians({name: call(found) for name, found in networks.items()}, args.repeats * 5, args.device)
    for name, value in times.items():
        print(f"{args.dim}d, {name}: median {1e3 * value:.1f} ms")
    say_ratio(times["stitched"] / times["bare parents"], f"forward pass, {args.dim}d, stitched to two bare parents")
    if args.compile:
        say_ratio(times["stitched, compiled"] / times["bare parents, compiled"],
                  f"forward pass, {args.dim}d, compiled, stitched to two bare parents")
        say_ratio(times["stitched, compiled"] / times["stitched"], f"forward pass, {args.dim}d, stitched, compiled to "
                                                                   f"eager")


if __name__ == "__main__":
    main()
