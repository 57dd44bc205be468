"""Device memory and time of one step of the coefficient search with 2, 4 and 8 members, against autograd through the
merge with all members on the device.

On CUDA the memory is torch's peak of allocations. On the CPU it is the peak of what one step allocates beside the
members, which is what a device would hold if the members lay in the host's memory.
"""

from __future__ import annotations

import torch
from common import machine, medians, parser, plain_unet
from torch.profiler import ProfilerActivity, profile

from nnunetv2_stitch.merging.atlas import Atlas
from nnunetv2_stitch.stitching.description import build_parent

MEMBERS = (2, 4, 8)


class Steps:
    """One step, ours and the usual way; the loss is a mean square, which costs next to nothing."""

    def __init__(self, count: int, dim: int, batch: int, device: str):
        torch.manual_seed(0)
        spec = plain_unet(dim, stages=6 if dim == 2 else 5)
        self.network = build_parent(spec, 1, 3).to(device).eval()
        start = {n: p.detach().cpu().clone() for n, p in self.network.named_parameters()}
        self.atlas = Atlas([{n: v + 0.01 * torch.randn_like(v) for n, v in start.items()} for _ in range(count)], start)
        self.c = self.atlas.coefficients([1 / count] * count)
        self.x = torch.randn(batch, 1, *((128, 128) if dim == 2 else (48, 48, 48)), device=device)

    def ours(self) -> torch.Tensor:
        self.atlas.write(self.network, self.c)
        self.network.zero_grad(set_to_none=True)
        self.network(self.x).square().mean().backward()
        gradient = self.atlas.gradient(self.network)
        self.network.zero_grad(set_to_none=True)
        return gradient

    def autograd(self) -> torch.Tensor:
        """The usual way, with members on the device and the merge in the graph."""
        atlas, device = self.atlas, self.x.device
        free = self.c.to(device).requires_grad_()
        # .clone(): on the CPU `.to` would hand back the members themselves.
        members = [{n: m[n].to(device).clone() for n in atlas.names} for m in atlas.members]
        base = {n: v.to(device).clone() for n, v in atlas.base.items()}
        merged = {n: base[n] + sum(free[i, g].float() * (m[n] - base[n]) for i, m in enumerate(members))
                  for n, g in zip(atlas.names, atlas.index)}
        torch.func.functional_call(self.network, merged, (self.x,)).square().mean().backward()
        return free.grad


def peak(call, device: str) -> int:
    """Bytes, beside what was there before."""
    call()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def measure(way: str, dim: int, batch: int, device: str) -> dict[int, int]:
    """Peak bytes of one step by number of members."""
    return {count: peak(getattr(Steps(count, dim, batch, device), way), device) for count in MEMBERS}


def main() -> None:
    add = parser(__doc__)
    add.add_argument("-dim", type=int, default=2, choices=(2, 3))
    add.add_argument("-batch", type=int, default=4)
    args = add.parse_args()
    torch.set_num_threads(args.threads)
    print(machine(args.device))
    for way in ("ours", "autograd"):
        peaks = measure(way, args.dim, args.batch, args.device)
        times = medians({str(n): getattr(Steps(n, args.dim, args.batch, args.device), way) for n in MEMBERS},
                        args.repeats, args.device)
        for count in MEMBERS:
            print(f"{args.dim}d, {way}, {count} members: peak {peaks[count] / 2**20:.1f} MiB, median "
                  f"{1e3 * times[str(count)]:.0f} ms; ratio to {MEMBERS[0]} members: memory "
                  f"{peaks[count] / peaks[MEMBERS[0]]:.3f}, time {times[str(count)] / times[str(MEMBERS[0])]:.2f}")


if __name__ == "__main__":
    main()
