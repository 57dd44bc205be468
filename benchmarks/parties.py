"""What 2, 3 and 4 parties cost: prediction, training and sweep, beside that many bare parents, in one run."""

import torch
from common import machine, medians, parser, plain_unet, supernet

from nnunetv2_stitch.fitting.closed_form import all_average
from nnunetv2_stitch.fitting.double_batched import double_batched_loss
from nnunetv2_stitch.selection.sweep import sweep_heads
from nnunetv2_stitch.stitching.network import build_parent
from nnunetv2_stitch.stitching.runner import GraphRunner
from nnunetv2_stitch.stitching.setting import Setting

PARTIES = (2, 3, 4)
STITCHES = 12  # per partner


def calls_for(parties: int, spec: dict, x: torch.Tensor, device: str) -> dict:
    net = supernet(spec, device, parties)
    by_partner = [[p for p in net.positions if net.party_at(p) == name] for name in net.parties[1:]]
    chosen = [own[int(0.7 * len(own))] for own in by_partner]
    deployed = net.deployed(Setting.average_at(*chosen)).to(device)
    parents = [build_parent(spec, 1, 3).to(device).eval() for _ in range(parties)]
    few = [p for own in by_partner for p in own[::len(own) // STITCHES][:STITCHES]]
    runner = GraphRunner(net.joined)

    @torch.inference_mode()
    def bare():
        return [p(x) for p in parents]

    @torch.inference_mode()
    def predict():
        return deployed(x)

    @torch.inference_mode()
    def sweep():
        return [position for position, *_ in sweep_heads(runner, x, few)]

    def train():
        net.zero_grad()
        net.apply_setting(all_average(net))
        double_batched_loss(net, x).backward()

    return {"bare parents": bare, "prediction": predict, "training step": train,
            f"sweep of {STITCHES} positions per partner": sweep}


def main() -> None:
    args = parser(__doc__).parse_args()
    torch.set_num_threads(args.threads)
    x = torch.randn(2, 1, 128, 128, device=args.device)
    spec = plain_unet(stages=5)
    found = {n: calls_for(n, spec, x, args.device) for n in PARTIES}
    times = medians({(n, what): call for n, calls in found.items() for what, call in calls.items()}, args.repeats,
                    args.device)
    print(machine(args.device))
    for what in found[2]:
        first, *more = (times[n, what] for n in PARTIES)
        growth = ", ".join(f"{n} parties {t / first:.2f}" for n, t in zip(PARTIES[1:], more))
        print(f"{what}: 2 parties {1e3 * first:.0f} ms; ratio to it: {growth}")
    for n in PARTIES:
        print(f"{n} parties, prediction to bare parents: {times[n, 'prediction'] / times[n, 'bare parents']:.3f}")


if __name__ == "__main__":
    main()
