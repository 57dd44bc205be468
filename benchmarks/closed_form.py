"""Closed-form direct matching against AdamW on the same error, in passes over the data."""

import time

import torch
from common import machine, parser, plain_unet, supernet

from nnunetv2_stitch.fitting.closed_form import DirectMatching
from nnunetv2_stitch.stitching.runner import GraphRunner


def direct_errors(net, runner, x) -> torch.Tensor:
    """Relative squared error of every stitch on the untouched features."""
    terms = []

    def on_switch(node, own, other):
        fitted = runner.modules[node].stitch(other.detach())
        centred = own.detach().transpose(0, 1).flatten(1)
        terms.append((fitted - own.detach()).square().mean() / centred.var(1).mean().clamp_min(1e-8))
        return own

    runner.run({runner.input: x}, 0, len(runner.nodes) - 1, on_switch)
    return torch.stack(terms)


def main() -> None:
    add = parser(__doc__)
    add.add_argument("-epochs", type=int, default=50)
    args = add.parse_args()
    torch.set_num_threads(args.threads)
    net = supernet(plain_unet(width=8, widest=32), args.device)
    # Smooth images, because the features of white noise have little in common.
    noise = torch.randn(16, 1, 8, 8, device=args.device)
    data = torch.nn.functional.interpolate(noise, size=(64, 64), mode="bicubic").split(4)
    runner = GraphRunner(net.joined)
    start = [p.detach().clone() for p in net.stitch_parameters()]

    def mean_error():
        with torch.no_grad():
            return float(torch.stack([direct_errors(net, runner, x) for x in data]).mean())

    begin = time.perf_counter()
    matching = DirectMatching(net)
    for x in data:
        matching.update(x)
    matching.solve()
    ours, ours_time = mean_error(), time.perf_counter() - begin
    print(machine(args.device))
    print(f"closed form: {ours:.5f} in 1 pass, {ours_time:.1f} s")
    for rate in (1e-2, 3e-3, 1e-3):
        with torch.no_grad():
            for p, value in zip(net.stitch_parameters(), start):
                p.copy_(value)
        optimizer = torch.optim.AdamW(net.stitch_parameters(), rate, weight_decay=0)
        begin = time.perf_counter()
        for _ in range(args.epochs):
            for x in data:
                optimizer.zero_grad()
                direct_errors(net, runner, x).sum().backward()
                optimizer.step()
        error, used = mean_error(), time.perf_counter() - begin
        print(f"AdamW {rate:g}: {error:.5f} after {args.epochs} passes, {used:.1f} s; "
              f"ratio of errors closed form / AdamW {ours / error:.3f}, of passes 1/{args.epochs}")


if __name__ == "__main__":
    main()
