"""nnUNetv2_distill_stitched: teach one ordinary nnU-Net what a stitched ensemble knows."""

from __future__ import annotations

import argparse

from nnunetv2_stitch.entrypoints.common import (
    GOES_ON,
    add_budget,
    add_common,
    add_continue,
    given,
    groups,
    not_negative,
    print_commands,
    print_validation,
    ready_device,
    run_parsed,
    say_step,
)
from nnunetv2_stitch.entrypoints.parties import fold
from nnunetv2_stitch.entrypoints.training_run import add_dry_run, print_dry_run


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_distill_stitched",
        description="Teach one ordinary nnU-Net what a stitched ensemble knows, on the host's images and on images "
                    "without labels. The result costs what a single network costs, and predicts with stock nnU-Net "
                    "where this package is not installed.")
    parties, fitting, running = groups(parser, "parties", "fitting", "running")
    add = parties.add_argument
    add("-m", required=True, metavar="MODEL_FOLDER", help="the stitched model's folder: the teacher")
    add("-d", required=True, metavar="DATASET", help="the host's dataset, by name or id, preprocessed here")
    add("-c", dest="configuration", metavar="CONFIG",  # dest, because --c would have the same
        help="configuration of the student. Default: the teacher's")
    add("-f", nargs="+", type=fold, metavar="FOLD", help="folds. The teacher's fold of the same name teaches each. "
                                                         "Default: all that the teacher has")
    add("-unlabelled", metavar="DIR", help="images without labels that take part, named as nnU-Net expects")
    add = fitting.add_argument
    add("-student", metavar="host|PLANS", help="plans of the student: the host's, or others of this dataset with the "
        "same preprocessing. Default: host")
    add("-start", choices=("host", "scratch"), help="what the student begins with: the host's weights, or nnU-Net's "
        "initialisation. Default: host where the student has the host's network, else scratch")
    add("-weight", type=not_negative, metavar="W", help="weight of the teacher's term beside nnU-Net's loss on labels. "
        "0 trains without teacher. Default: 1.0")
    add_budget(fitting, None)
    running.add_argument("-o_p", default="nnUNetDistilledPlans", metavar="PLANS_NAME", help="name of the plans that "
                         "are written, and so of the result. Default: %(default)s")
    add_continue(running, GOES_ON)
    add_dry_run(running)
    add_common(running, trust=True)
    return parser


def distill_stitched_entry() -> None:
    args = build_parser().parse_args()
    run_parsed(main, args, resume="--c")


def main(args: argparse.Namespace) -> None:
    from nnunetv2_stitch.distillation import DistillRequest, distill, prepare
    request = given(
        configuration=args.configuration, folds=args.f, student=args.student, unlabelled=args.unlabelled,
        start=args.start, weight=args.weight, epochs=args.epochs, iterations=args.iterations, plans_name=args.o_p,
        seed=args.seed)
    if args.dry_run:
        asked = DistillRequest(args.m, args.d, **request)
        print_dry_run(lambda folder: prepare(asked, args.continue_training, True), args)
        return
    print_result(distill(
        args.m, args.d, device=ready_device(args), continue_training=args.continue_training,
        progress=not args.disable_progress_bar, say=say_step, **request))


def print_result(result) -> None:
    student, teacher = result.parameters
    print(f"\nStudent: {student:,} parameters, teacher: {teacher:,}; started from {result.start}")
    print(f"Taught by {result.taught_by}")
    print_validation(result)
    print_commands(result.commands)
