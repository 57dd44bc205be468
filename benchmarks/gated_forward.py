"""Forward pass of a gated stitched ensemble against the two bare parents: on images that one parent answers alone, and
on images that all answer. `-compile` as well with nnU-Net's way of compiling a network."""

import torch
from common import bare_parents, medians, parser, precision, say_ratio, start, supernet, workload

from nnunetv2_stitch.gating.gate import GateOptions
from nnunetv2_stitch.gating.signature import Signature
from nnunetv2_stitch.stitching.network import StitchedEnsemble
from nnunetv2_stitch.stitching.setting import Setting

PROGRESS = 0.7  # of the averaged pair


def gated(args, spec: dict, x: torch.Tensor, own: bool) -> torch.nn.Module:
    """A deployed network whose gate knows images like `x` as A's own, or as nobody's in between."""
    plain = supernet(spec, args.device)
    setting = Setting.average_at(int(PROGRESS * len(plain.positions)))
    options = GateOptions((False,), 0.2, wholly=0.9)
    net = StitchedEnsemble(1, 3, [spec] * 2, plain.matches, setting.to_json(), gate=options.to_json()).to(args.device)
    seen = torch.cat([net.gated.features("partner", torch.randn_like(x)) for _ in range(20)]).double().cpu().numpy()
    signature = Signature.of(seen, seen)
    net.gate.set([signature], [None], 0.2)
    density = net.gate.host[0]
    f = net.gated.features("partner", x).float()
    density.threshold += density(f)[1].min() - (10.0 if own else 0.5)  # how far above it these images lie
    return net


@torch.inference_mode()
def main() -> None:
    add = parser(__doc__)
    add.add_argument("-dim", type=int, default=2, choices=(2, 3))
    add.add_argument("-compile", action="store_true", help="torch.compile, against compiled parents")
    args = add.parse_args()
    start(args)
    spec, x = workload(args, args.dim, 1 if args.size == "small" else None, {2: 256, 3: 64}[args.dim])
    networks = {"bare parents": bare_parents(spec, args.device), "A's images": [gated(args, spec, x, True)],
                "others": [gated(args, spec, x, False)]}
    with precision(args):
        shares = {name: found[0].gated.shares(x)[:, 0].min().item() for name, found in networks.items()
                  if name != "bare parents"}
    if args.compile:
        networks = {name: [torch.compile(n) for n in found] for name, found in networks.items()}

    def call(found):
        def run():
            with precision(args):
                return [n(x) for n in found]
        return run

    times = medians({name: call(found) for name, found in networks.items()}, args.repeats * 5, args.device)
    for name, value in times.items():
        share = f", A's share from {shares[name]:.3f} on" if name in shares else ""
        print(f"{args.dim}d, {name}: median {1e3 * value:.1f} ms{share}")
    for name in shares:
        say_ratio(times[name] / times["bare parents"], f"forward pass, {args.dim}d, gated, {name}, to two bare parents")


if __name__ == "__main__":
    main()
