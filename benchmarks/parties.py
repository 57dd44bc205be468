"""What 2, 3 and 4 parties cost: prediction, training and sweep, beside that many bare parents, in one run."""

import argparse

import torch
from common import bare_parents, medians, parser, precision, say_ratio, start, supernet, workload

from nnunetv2_stitch.fitting.closed_form import all_average
from nnunetv2_stitch.fitting.double_batched import double_batched_loss
from nnunetv2_stitch.selection.sweep import sweep_heads
from nnunetv2_stitch.stitching.runner import GraphRunner
from nnunetv2_stitch.stitching.setting import Setting

PARTIES = (2, 3, 4)
STITCHES = 12  # per partner


def calls_for(parties: int, spec: dict, x: torch.Tensor, args: argparse.Namespace) -> dict:
    net = supernet(spec, args.device, parties)
    by_partner = [[p for p in net.positions if net.party_at(p) == name] for name in net.parties[1:]]
    chosen = [own[int(0.7 * len(own))] for own in by_partner]
    deployed = net.deployed(Setting.average_at(*chosen)).to(args.device)
    parents = bare_parents(spec, args.device, parties)
    few = [p for own in by_partner for p in own[::max(1, len(own) // STITCHES)][:STITCHES]]
    runner = GraphRunner(net.joined)

    @torch.inference_mode()
    def bare():
        with precision(args):
            return [p(x) for p in parents]

    @torch.inference_mode()
    def predict():
        with precision(args):
            return deployed(x)

    @torch.inference_mode()
    def sweep():
        with precision(args):
            return [position for position, *_ in sweep_heads(runner, x, few)]

    def train():
        net.zero_grad()
        net.apply_setting(all_average(net))
        with precision(args):
            loss = double_batched_loss(net, x)
        loss.backward()

    return {"bare parents": bare, "prediction": predict, "training step": train,
            f"sweep of {STITCHES} positions per partner": sweep}


def main() -> None:
    args = parser(__doc__).parse_args()
    start(args)
    spec, x = workload(args, 2, 2)
    found = {n: calls_for(n, spec, x, args) for n in PARTIES}
    times = medians({(n, what): call for n, calls in found.items() for what, call in calls.items()}, args.repeats,
                    args.device)
    for what in found[2]:
        print(f"{what}, 2 parties: median {1e3 * times[2, what]:.0f} ms")
        for n in PARTIES[1:]:
            say_ratio(times[n, what] / times[2, what], f"{what}, {n} parties to 2")
    for n in PARTIES:
        say_ratio(times[n, "prediction"] / times[n, "bare parents"], f"prediction, {n} parties to {n} bare parents")


if __name__ == "__main__":
    main()
