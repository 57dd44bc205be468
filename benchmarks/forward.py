"""Forward pass of the deployed stitched ensemble against the two bare parents, in one run."""

import torch
from common import machine, medians, parser, plain_unet, supernet

from nnunetv2_stitch.stitching.network import build_parent
from nnunetv2_stitch.stitching.setting import Setting


@torch.inference_mode()
def main() -> None:
    add = parser(__doc__)
    add.add_argument("-dim", type=int, default=2, choices=(2, 3))
    args = add.parse_args()
    torch.set_num_threads(args.threads)
    spec = plain_unet(args.dim, stages=6 if args.dim == 2 else 5)
    x = torch.randn(1, 1, *((256, 256) if args.dim == 2 else (64, 64, 64)), device=args.device)
    net = supernet(spec, args.device)
    deployed = net.deployed(Setting.average_at(int(0.7 * len(net.positions)))).to(args.device)
    parents = [build_parent(spec, 1, 3).to(args.device).eval() for _ in range(2)]
    result = medians({"stitched": lambda: deployed(x), "parents": lambda: [p(x) for p in parents]}, args.repeats * 5,
                     args.device)
    print(machine(args.device))
    print(f"{args.dim}d, median ms: stitched {1e3 * result['stitched']:.1f}, "
          f"two bare parents {1e3 * result['parents']:.1f}")
    print(f"ratio stitched / parents: {result['stitched'] / result['parents']:.3f}")


if __name__ == "__main__":
    main()
