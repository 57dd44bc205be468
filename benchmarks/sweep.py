"""Position sweep with shared prefixes against one forward pass per position."""

import torch
from common import medians, parser, precision, say_ratio, start, supernet, workload
from reference import naive_sweep

from nnunetv2_stitch.selection.sweep import sweep_heads
from nnunetv2_stitch.stitching.runner import GraphRunner


@torch.inference_mode()
def main() -> None:
    add = parser(__doc__)
    add.add_argument("-dim", type=int, default=2, choices=(2, 3))
    args = add.parse_args()
    start(args)
    spec, x = workload(args, args.dim, 2)
    net = supernet(spec, args.device)
    runner = GraphRunner(net.joined)

    def shared():
        with precision(args):
            return [net.heads(h, p) for _, h, p in sweep_heads(runner, x, net.positions)][:-1]

    def naive():
        with precision(args):
            return naive_sweep(net, x, net.positions)

    if args.precision == "fp32" and args.device == "cpu":
        for one, other in zip(shared(), naive()):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    result = medians({"shared": shared, "naive": naive}, min(5, args.repeats), args.device)
    print(f"{args.dim}d, {len(net.positions)} positions, median s: shared prefixes {result['shared']:.2f}, "
          f"naive {result['naive']:.2f}")
    say_ratio(result["shared"] / result["naive"], f"position sweep, {args.dim}d, shared prefixes to whole passes")


if __name__ == "__main__":
    main()
