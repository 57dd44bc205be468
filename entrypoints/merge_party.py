"""nnUNetv2_merge_party: several trained nnU-Nets of one start become one network of the same size."""

from __future__ import annotations

import argparse

from nnunetv2_stitch.entrypoints.common import (
    add_common,
    add_old,
    groups,
    positive,
    positive_int,
    print_commands,
    ready_device,
    run_parsed,
    say,
    say_renamed,
)
from nnunetv2_stitch.entrypoints.parties import fold


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_merge_party",
        description="Merge trained nnU-Nets of one architecture and one common start into one network of the same "
                    "size. Its weights are a sum of theirs; the coefficients, of any sign, are searched on your own "
                    "data. The command first says whether merging can work, or stitching is needed. The result is an "
                    "ordinary nnU-Net model of DATASET that runs where this package is not installed.")
    parties, fitting, running = groups(parser, "parties", "fitting", "running")
    add = parties.add_argument
    add("-m", nargs="+", required=True, metavar="MODEL", help="two or more models: folders, or zips as they were sent")
    add("-d", required=True, metavar="DATASET", help="your dataset by name or id, preprocessed with the models' plans")
    add("-c", dest="configuration", required=True, metavar="CONFIG", help="configuration, e.g. 2d")
    add("-f", required=True, type=fold, metavar="FOLD", help="fold of DATASET, whose cases train and validate. The "
        "models take the same fold, else 'all', else their first")
    add("-p", dest="plans_name", metavar="PLANS", help="plans that your data were preprocessed with. Default: the "
                                                       "first model's")
    add("-chk", nargs="+", default=["checkpoint_final.pth"], metavar="NAME", help="checkpoint of all models, or one "
        "for each. Default: checkpoint_final.pth")
    add("-base", metavar="CHECKPOINT", help="checkpoint that all models started from. Default: their mean")
    add = fitting.add_argument
    add("-granularity", choices=("model", "stage", "tensor"), default="stage",
        help="what has a coefficient of its own in each model. Default: %(default)s")
    add("-search", choices=("gradient", "cmaes"), default="gradient", help="how coefficients are searched. cmaes needs "
        "the package cma. Default: %(default)s")
    steps = add("-search_steps", type=positive_int, default=100, metavar="N", help="steps of the search, or "
                "generations of cmaes. Default: %(default)s")
    rate = add("-lr", type=positive, default=0.05, metavar="R", help="learning rate of the coefficients at the "
               "beginning, or first standard deviation of cmaes. Default: %(default)s")
    add("-surrogate", choices=("auto", "task", "kl"), default="auto", help="loss. task: nnU-Net's own, on your labels. "
        "kl: distance to the models' mean answer, without labels. auto: task where your labels are the models'. "
        "Default: %(default)s")
    add("-seed", type=int, default=12345, help="seed, recorded in merge.json. Default: %(default)s")
    plans = running.add_argument("-o_p", default="nnUNetMergedPlans", metavar="PLANS_NAME", help="name of the result's "
                                 "plans. A fold that is there is never replaced. Default: %(default)s")
    for group, old, new in ((fitting, "-steps", steps), (fitting, "-rate", rate), (running, "-o", plans)):
        add_old(group, old, new)
    add_common(running, trust=True, bars=False)
    return parser


def merge_party_entry() -> None:
    args = build_parser().parse_args()
    run_parsed(main, args)


def merge_guided_entry() -> None:
    """By the command's old name."""
    say_renamed("nnUNetv2_merge_guided", "nnUNetv2_merge_party")
    merge_party_entry()


def main(args: argparse.Namespace) -> None:
    device = ready_device(args)
    from nnunetv2_stitch.merging.run import MergeRequest, merge_guided
    request = MergeRequest(
        args.m, args.d, args.configuration, args.f, args.o_p, args.base, args.granularity, args.search,
        args.search_steps, args.lr, args.surrogate, args.plans_name, args.chk, args.seed)
    print_result(merge_guided(request, device, say))


def print_result(result) -> None:
    from nnunetv2_stitch.evaluation.tables import text_table
    if result.check.lines:
        print("\nThe lines between the models:\n")
        print(text_table(result.check.table()))
    print(f"\n{result.scored_by} on the centre's validation cases, on the preprocessed grid without mirroring:\n")
    print(text_table(result.table, digits=4))
    print()
    for remark in result.remarks:
        print(remark)
    print("Files: " + ", ".join(result.files))
    print_commands(result.commands[:1])
