"""Forward pass of a distilled student against the host's network and the stitched ensemble that taught it, in one run.

The student is built from the plans that nnUNetv2_distill_stitched writes, made from the teacher's, as is the host.
"""

import copy
from dataclasses import asdict

import torch
from common import machine, medians, parser, plain_unet, supernet

from nnunetv2_stitch.distillation.student import architecture_of_host
from nnunetv2_stitch.graph import layer_nodes, trace
from nnunetv2_stitch.stitching.description import build_parent
from nnunetv2_stitch.stitching.network import CLASS_PATH
from nnunetv2_stitch.stitching.plans import count_parameters
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
    teacher = net.deployed(Setting.average_at(int(0.7 * len(net.positions)))).to(args.device)
    plans = {"architecture": {"network_class_name": CLASS_PATH, "arch_kwargs": {"parents": copy.deepcopy(net.parents)}}}
    student, host = (build_parent(s, 1, 3).to(args.device).eval() for s in (architecture_of_host(plans), spec))
    same = [[asdict(n) for n in layer_nodes(trace(n), 1)] for n in (student, host)]
    result = medians({"student": lambda: student(x), "host": lambda: host(x), "teacher": lambda: teacher(x)},
                     args.repeats * 5, args.device)
    print(machine(args.device))
    print(f"{args.dim}d, median ms: " + ", ".join(f"{name} {1e3 * value:.1f}" for name, value in result.items()))
    print(f"parameters: student {count_parameters(student):,}, host {count_parameters(host):,}, teacher "
          f"{count_parameters(teacher):,}; same graph: {same[0] == same[1]}")
    print(f"ratio student / host: {result['student'] / result['host']:.3f}")
    print(f"ratio teacher / student: {result['teacher'] / result['student']:.3f}")


if __name__ == "__main__":
    main()
