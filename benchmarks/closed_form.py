"""Closed-form direct matching against AdamW on the same error, in passes over the data."""

import time

import torch
from common import parser, plain_unet, say_ratio, start, supernet

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
    start(args)
    net = supernet(plain_unet(width=8, widest=32), args.device)
    # Smooth images, because the features of white noise have little in common.
    noise = torch.randn(16, 1, 8, 8, device=args.device)
    data = torch.nn.functional.interpolate(noise, size=(64, 64), mode="bicubic").split(4)
    runner = GraphRunner(net.joined)
    before = [p.detach().clone() for p in net.stitch_parameters()]

    def mean_error():
        with torch.no_grad():
            return float(torch.stack([direct_errors(net, runner, x) for x in data]).mean())

    begin = time.perf_counter()
    matching = DirectMatching(net)
    for x in data:
        matching.update(x)
    matching.solve()
    ours, ours_time = mean_error(), time.perf_counter() - begin
    print(f"closed form: {ours:.5f} in 1 pass, {ours_time:.1f} s")
    for rate in (1e-2, 3e-3, 1e-3):
        with torch.no_grad():
            for p, value in zip(net.stitch_parameters(), before):
                p.copy_(value)
        optimizer = torch.optim.AdamW(net.stitch_parameters(), rate, weight_decay=0)
        begin = time.perf_counter()
        for _ in range(args.epochs):
            for x in data:
                optimizer.zero_grad()
                direct_errors(net, runner, x).sum().backward()
                optimizer.step()
        error, used = mean_error(), time.perf_counter() - begin
        print(f"AdamW {rate:g}: {error:.5f} after {args.epochs} passes, {used:.1f} s")
        say_ratio(ours / error, f"squared error, closed form in 1 pass to AdamW {rate:g} in {args.epochs}")


if __name__ == "__main__":
    main()
