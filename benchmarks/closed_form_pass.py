"""One batch of closed-form direct matching against a bare forward pass of both parents, and what its sums lose."""

import torch
from common import bare_parents, medians, parser, precision, say_ratio, start, supernet, workload

from nnunetv2_stitch.fitting.closed_form import DirectMatching, Moments


def update_against_forward(args) -> None:
    spec, x = workload(args, args.dim, edge={2: 128, 3: 48}[args.dim])
    matching, parents = DirectMatching(supernet(spec, args.device)), bare_parents(spec, args.device)

    @torch.inference_mode()
    def bare():
        with precision(args):
            return [p(x) for p in parents]

    def update():
        with precision(args):
            matching.update(x)

    times = medians({"update": update, "bare": bare}, args.repeats, args.device)
    what = f"direct matching of one batch at {len(matching.network.positions)} positions, {args.dim}d"
    print(f"{what}: median {1e3 * times['update']:.0f} ms, two bare parents {1e3 * times['bare']:.0f} ms")
    say_ratio(times["update"] / times["bare"], f"{what}, to a forward pass of two bare parents")


def losses(args, dtype: torch.dtype, mean: float) -> tuple[float, float]:
    """Largest relative error of the weights, and the error of R2, against float64 of the same maps."""
    torch.manual_seed(0)
    a = torch.randn(4, 32, 128, 128, device=args.device)
    b = torch.einsum("oc,bcxy->boxy", torch.randn(32, 32, device=args.device), a) / 6 + 0.3 * torch.randn_like(a)
    a, b = (a + mean).to(dtype), (b - mean).to(dtype)
    moments = Moments(32, 32)
    with torch.autocast(args.device, torch.bfloat16):
        for part_a, part_b in zip(a.split(2), b.split(2)):
            moments.update(part_a, part_b)
    covariance = torch.cat([m.double().transpose(0, 1).flatten(1) for m in (a, b)]).cov(correction=0).cpu()
    aa, ba, bb = covariance[:32, :32], covariance[32:, :32], covariance[32:, 32:]
    wanted = torch.linalg.solve(aa, ba.T).T
    r2 = float((wanted @ aa @ wanted.T).trace() / bb.trace())
    found = moments.solve(ridge=0)[1]
    return float((found.weight - wanted).abs().max() / wanted.abs().max()), abs(found.r2 - r2)


def main() -> None:
    add = parser(__doc__)
    add.add_argument("-dim", type=int, default=2, choices=(2, 3))
    args = add.parse_args()
    start(args)
    update_against_forward(args)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for mean in (0, 30):
            weights, r2 = losses(args, dtype, mean)
            print(f"error of the sums, {dtype} maps of standard deviation 1 and mean {mean}: weights {weights:.0e}, "
                  f"R2 {r2:.0e}")


if __name__ == "__main__":
    main()
