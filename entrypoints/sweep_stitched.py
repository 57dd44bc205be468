"""nnUNetv2_sweep_stitched: try every position of a stitched model on one's own cases, and send back only numbers."""

from __future__ import annotations

import argparse
import os

from nnunetv2_stitch.entrypoints.common import add_common, groups, ready_device, run_parsed, say
from nnunetv2_stitch.entrypoints.parties import fold, party_or, positions

FEW_CASES = 10
SHOWN = 5


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_sweep_stitched",
        description="Try every position of a stitched model on labelled cases of your own dataset. The command writes "
                    "a small file of Dice values that may go back to whoever made the model: it names no case, no path "
                    "and no dataset. Only the model folder is needed, as nnUNetv2_train_stitch made it; neither the "
                    "host's own model nor its images. The cases are the validation cases of the fold that your own "
                    "model was trained with, or else the test cases.")
    parties, choosing, running = groups(parser, "parties", "choosing", "running")
    add = parties.add_argument
    add("-m", required=True, metavar="MODEL_FOLDER", help="the stitched model's folder: plans.json, "
        "dataset.json, and of each fold checkpoint_final.pth and stitches_all.safetensors")
    add("-d", required=True, metavar="DATASET", help="your dataset in nnUNet_raw, by name or id")
    add("-f", nargs="+", type=fold, metavar="FOLD", help="folds of the stitched model. Default: all")
    add("-party", type=party_or(), metavar="host|partner", help="whose dataset it is, if its name does not say so. "
        "Further partners are partner2 and so on. Default: by the names in the model's plans, else partner")
    add("-label_map", metavar="FILE.json", help="labels that have another name in the model: "
        '{"your name": "name in the model", ...}, null for a label that is not wanted')
    add("-channel_map", metavar="FILE.json", help="input channels that have another name, in the same form")
    add("--test_cases", action="store_true", help="take imagesTs and labelsTs, even if there are validation cases")
    choosing.add_argument("-positions", type=positions, default="all", metavar="all|LIST",
                          help="positions to try, e.g. 3,7,20-25. Default: %(default)s")
    add = running.add_argument
    add("-o", metavar="FILE.json", help="file to write. Default: sweep_<DATASET>.json in the current folder")
    add("--c", dest="continue_sweep", action="store_true",
        help="continue after an interruption; cases that are done are not computed again")
    add_common(running, trust=True)
    return parser


def sweep_stitched_entry() -> None:
    args = build_parser().parse_args()
    run_parsed(main, args, resume="--c")


def main(args: argparse.Namespace) -> None:
    from nnunetv2_stitch.bridging.names import NameMaps
    from nnunetv2_stitch.errors import StitchError
    if args.positions == "blocks":
        raise StitchError("-positions blocks is for training; here all that have stitches are tried, or those of a "
                          "list such as 3,7,20-25")
    require_writable(args.o)
    device = ready_device(args)
    from nnunetv2_stitch.fileio import write_json
    from nnunetv2_stitch.selection.party_cases import raw_dataset
    from nnunetv2_stitch.selection.party_sweep import forget, sweep_party
    path = os.path.abspath(args.o or f"sweep_{raw_dataset(args.d).name}.json")
    require_writable(path)
    keep = os.path.splitext(path)[0]
    result = sweep_party(
        args.m, args.d, folds=args.f, positions=None if args.positions == "all" else args.positions, party=args.party,
        names=NameMaps.read(args.label_map, args.channel_map), test_cases=args.test_cases,
        device=device, progress=not args.disable_progress_bar, keep=keep, continue_sweep=args.continue_sweep,
        say=say)
    write_json(path, result.to_json())
    forget(keep)
    print_result(result, path)


def require_writable(path: str | None) -> None:
    """Raises StitchError now rather than after the sweep."""
    from nnunetv2_stitch.errors import StitchError
    if path is None:
        return
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path) or not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        what = "is a folder" if os.path.isdir(path) else f"cannot be written, {folder} must be a folder of yours"
        raise StitchError(f"{path} {what}; give -o a file that can be written, e.g. sweep.json")


def print_result(result, path: str) -> None:
    from nnunetv2_stitch.evaluation.tables import text_table
    from nnunetv2_stitch.selection.pareto import mean_over_folds
    first = result.sweeps[0]
    scores = mean_over_folds(result.party, result.sweeps, first.positions)
    best = sorted(range(len(first.positions)), key=lambda i: (-scores.values[i], i))[:SHOWN]
    rows = [{"position": str(first.positions[i]), "Dice": scores.values[i], "layer": first.names[i]} for i in best]
    rows += [{"position": name, "Dice": value} for name, value in (
        ("host alone", scores.host), ("partner alone", scores.partner), ("plain ensemble", scores.ensemble))]
    of = f"mean of {len(result.sweeps)} folds" if len(result.sweeps) > 1 else f"fold {first.fold}"
    print(f"\nMean Dice on your cases, {of}: the best of {len(first.positions)} positions, and the models without "
          f"stitches\n")
    print(text_table(rows))
    fewest = min(s.cases for s in result.sweeps)
    if fewest < FEW_CASES:
        print(f"\n{fewest} case{'s' if fewest > 1 else ''} in a fold say little about which position is better.")
    print(f"\nWritten: {path}\nSend this one file to whoever made the model; it holds Dice values and no case. They "
          f"choose with it: the nnUNetv2_train_stitch that they made it with, and behind it\n  --select -sweeps "
          f"{os.path.basename(path)} -prefer balanced")
