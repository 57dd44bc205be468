"""nnUNetv2_train_party: a party trains on from a merged model, with all its weights."""

from __future__ import annotations

import argparse

from nnunetv2_stitch.entrypoints.common import (
    GOES_ON,
    add_budget,
    add_common,
    add_continue,
    add_old,
    given,
    groups,
    print_commands,
    print_validation,
    ready_device,
    run_parsed,
    say_renamed,
    say_step,
)
from nnunetv2_stitch.entrypoints.parties import fold
from nnunetv2_stitch.entrypoints.training_run import add_dry_run, print_dry_run


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_train_party",
        description="Train on from a merged model, or from any other, on your own images. The training begins with all "
                    "weights of the model, heads included; nnU-Net's own -pretrained_weights drops the heads. The "
                    "result is an ordinary nnU-Net model of DATASET, to be sent back for the next merge.")
    parties, fitting, running = groups(parser, "parties", "fitting", "running")
    add = parties.add_argument
    add("-m", required=True, metavar="MODEL", help="the merged model: a folder, or a zip as it was sent")
    add("-d", required=True, metavar="DATASET", help="your dataset by name or id, preprocessed with the model's plans")
    add("-c", dest="configuration", metavar="CONFIG",  # dest, because --c would have the same
        help="configuration. Default: the model's")
    add("-f", nargs="+", type=fold, metavar="FOLD", help="folds of DATASET. Each begins with the model's fold of that "
        "name, else 'all', else its first. Keep to the same folds in all rounds. Default: the model's")
    add("-p", dest="plans_name", metavar="PLANS", help="plans that your data were preprocessed with. Default: the "
                                                       "model's")
    add("-chk", metavar="NAME", help="checkpoint of the model. Default: checkpoint_final.pth")
    add_budget(fitting, 100, 1e-3)
    plans = running.add_argument("-o_p", default="nnUNetFromMergedPlans", metavar="PLANS_NAME", help="name of the "
                                 "plans that are written: one name for each round. Default: %(default)s")
    add_old(running, "-o", plans)
    add_continue(running, GOES_ON)
    add_dry_run(running)
    add_common(running, trust=True, bars=False)
    return parser


def train_party_entry() -> None:
    args = build_parser().parse_args()
    run_parsed(main, args, resume="--c")


def train_from_merged_entry() -> None:
    """By the command's old name."""
    say_renamed("nnUNetv2_train_from_merged", "nnUNetv2_train_party")
    train_party_entry()


def main(args: argparse.Namespace) -> None:
    from nnunetv2_stitch.training import FromMergedRequest, train_from_merged
    from nnunetv2_stitch.training.from_merged import prepare
    request = given(
        configuration=args.configuration, folds=args.f, plans_name=args.o_p, data_plans=args.plans_name,
        epochs=args.epochs, iterations=args.iterations, rate=args.lr, checkpoint_name=args.chk, seed=args.seed)
    if args.dry_run:
        asked = FromMergedRequest(args.m, args.d, **request)
        print_dry_run(lambda folder: prepare(asked, args.continue_training, True, folder), args)
        return
    print_result(train_from_merged(args.m, args.d, device=ready_device(args), say=say_step,
                                   continue_training=args.continue_training, **request))


def print_result(result) -> None:
    print()
    print_validation(result)
    print_commands(result.commands)
