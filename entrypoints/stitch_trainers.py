"""nnUNetv2_stitch_trainers: where our trainer classes are, and how stock nnU-Net commands come to find them."""

import argparse
import sys

from nnunetv2_stitch.entrypoints.common import add_verbose, groups, run
from nnunetv2_stitch.registration import register, trainers_folder, unregister


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_stitch_trainers",
        description="Print the folder with the trainer classes of nnunetv2-stitch, for "
                    'export nnUNet_extTrainer="$(nnUNetv2_stitch_trainers)". Stock training needs this '
                    "(nnUNetv2_train -tr nnUNetTrainerStitch, with or without --val). The commands of nnunetv2-stitch "
                    "and stock prediction do not.")
    running, = groups(parser, "running")
    action = running.add_mutually_exclusive_group()
    action.add_argument("--register", action="store_true",
                        help="write one small file into the nnU-Net in use, once, instead of setting the variable")
    action.add_argument("--unregister", action="store_true",
                        help="remove that file. Do this before you uninstall nnunetv2-stitch")
    add_verbose(running)
    return parser


def stitch_trainers(register_file: bool = False, unregister_file: bool = False) -> None:
    """Print the folder, or write or remove the file. Only the folder goes to stdout, where `$(...)` reads it."""
    if register_file:
        print(f"wrote {register()}", file=sys.stderr)
    elif unregister_file:
        removed = unregister()
        print(f"removed {removed}" if removed else "not registered; there was nothing to remove", file=sys.stderr)
    else:
        print(trainers_folder())


def stitch_trainers_entry() -> None:
    """Entry point of nnUNetv2_stitch_trainers."""
    args = build_parser().parse_args()
    run(lambda: stitch_trainers(args.register, args.unregister), verbose=args.verbose)


if __name__ == "__main__":
    stitch_trainers_entry()
