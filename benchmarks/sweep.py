"""Position sweep with shared prefixes against one forward pass per position."""

import torch
from common import machine, medians, parser, plain_unet, supernet
from reference import naive_sweep

from nnunetv2_stitch.selection.sweep import sweep_heads
from nnunetv2_stitch.stitching.runner import GraphRunner


@torch.inference_mode()
def main() -> None:
    add = parser(__doc__)
    add.add_argument("-dim", type=int, default=2, choices=(2, 3))
    args = add.parse_args()
    torch.set_num_threads(args.threads)
    net = supernet(plain_unet(args.dim, stages=6 if args.dim == 2 else 5), args.device)
    x = torch.randn(2, 1, *((128, 128) if args.dim == 2 else (48, 48, 48)), device=args.device)
    runner = GraphRunner(net.joined)

    def shared():
        return [net.heads(h, p) for _, h, p in sweep_heads(runner, x, net.positions)][:-1]

    for one, other in zip(shared(), naive_sweep(net, x, net.positions)):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    result = medians({"shared": shared, "naive": lambda: naive_sweep(net, x, net.positions)}, min(5, args.repeats),
                     args.device)
    print(machine(args.device))
    print(f"{args.dim}d, {len(net.positions)} positions, median s: shared prefixes {result['shared']:.2f}, "
          f"naive {result['naive']:.2f}")
    print(f"ratio shared / naive: {result['shared'] / result['naive']:.2f}")


if __name__ == "__main__":
    main()
