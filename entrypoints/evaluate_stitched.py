"""nnUNetv2_evaluate_stitched: models against test sets, each party for itself."""

from __future__ import annotations

import argparse
import os

from nnunetv2_stitch.entrypoints.common import (
    add_common,
    groups,
    not_negative,
    positive_int,
    ready_device,
    run_parsed,
    say,
)
from nnunetv2_stitch.entrypoints.parties import fold

DEFAULT_OUTPUT = "nnUNetv2_evaluate_stitched"
RECORDED = ("models", "datasets", "unseen", "host", "own", "tolerance", "djfile", "notes", "f", "seed")


def millimetres(text: str) -> float:
    """Argparse type: a length of at least 0."""
    return not_negative(text, "length in mm")


def whole_number(text: str) -> int:
    """Argparse type: 0 or more."""
    return 0 if text.strip() == "0" else positive_int(text)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_evaluate_stitched",
        description="Compare models on the test sets of several parties: Dice, surface Dice and HD95 with intervals "
                    "and tests against the host alone, as tables, figures and one page (report.html). Models are "
                    "trained nnU-Net model folders, plain or stitched, or predictions made elsewhere. Every party is "
                    "an objective of its own; nothing is averaged over parties. Hospitals that are no party (-unseen) "
                    "are shown apart, each and their mean.")
    parties, choosing, running = groups(parser, "parties", "choosing", "running")
    add = parties.add_argument
    add("-models", nargs="+", metavar="NAME=FOLDER",
        help="trained model folders, or folders of predictions with a sub-folder per dataset. A stitched model answers "
             "as stitched, or as NAME=FOLDER@host, @partner or @ensemble")
    add("-datasets", nargs="+", metavar="NAME=DIR",
        help="test sets: nnU-Net raw datasets (imagesTs and labelsTs), or folders with images and labels; for "
             "predictions made elsewhere labels are enough")
    add("-unseen", nargs="+", metavar="NAME=DIR",
        help="test sets of hospitals that are no party, which trained none of the models; folders as for -datasets")
    add("-comparison", metavar="FILE", help="instead of both: a comparison.json; everything is made again from the "
                                            "inputs that it names")
    add("-host", metavar="NAME", help="the model that is the host alone. Default: the first")
    add("-own", metavar="NAME", help="the dataset with the host's own cases. Default: the first of -datasets")
    add("-f", nargs="+", type=fold, metavar="FOLD", help="folds of the models. Default: all that each has trained")
    add("-chk", metavar="NAME", help="checkpoint of the models. Default: checkpoint_final.pth")
    add("-djfile", metavar="FILE", help="dataset.json with the labels, where neither models nor datasets have one")
    add("-notes", nargs="+", metavar="NAME=TEXT", help="what a model needs that the others do not, shown as a mark")
    add = choosing.add_argument
    add("-tolerance", type=millimetres, metavar="MM", help="tolerance of the surface Dice. Default: one voxel, the "
        "largest over datasets of the median in-plane spacing")
    add("-worst", type=whole_number, default=3, metavar="N",
        help="how many of the worst cases of each dataset are shown. Default: %(default)s")
    add("-seed", type=int, metavar="SEED", help="seed of the bootstrap. Default: 12345")
    add("--disable_tta", action="store_true", help="no mirroring in predictions: faster, a little less accurate")
    add = running.add_argument
    add("-o", metavar="FOLDER",
        help=f"where everything goes. Default: ./{DEFAULT_OUTPUT}, or the folder of -comparison")
    add("--c", dest="continue_prediction", action="store_true",
        help="keep what the same models have predicted in the folder already")
    add_common(running, trust=True)
    return parser


def evaluate_stitched_entry() -> None:
    args = build_parser().parse_args()
    run_parsed(main, args, resume="--c")


def main(args: argparse.Namespace) -> None:
    from nnunetv2_stitch.evaluation.entries import is_model_folder
    from nnunetv2_stitch.evaluation.output import require_writable
    before, inputs = recorded(args) if args.comparison else (None, given(args))
    output = args.o or (os.path.dirname(os.path.abspath(args.comparison)) if args.comparison else DEFAULT_OUTPUT)
    require_writable(output)
    device = None
    if any(is_model_folder(m.folder) for m in inputs["models"]):  # predictions are measured without torch
        device = ready_device(args)
    from nnunetv2_stitch.evaluation.evaluate import evaluate
    from nnunetv2_stitch.evaluation.output import write_comparison

    comparison = evaluate(**inputs, output=output, device=device, continue_prediction=args.continue_prediction,
                          progress=not args.disable_progress_bar, verbose=args.verbose, say=say)
    files = write_comparison(comparison, output, args.worst, say)
    print_result(comparison, files)
    if before is not None:
        print_changes(before, comparison, args.comparison)


def given(args: argparse.Namespace) -> dict:
    """Arguments of `evaluate` from the command line."""
    from dataclasses import replace

    from nnunetv2_stitch.errors import StitchError
    from nnunetv2_stitch.evaluation.entries import ModelEntry, TestSet, split
    from nnunetv2_stitch.evaluation.labels import read_labels
    if not args.models or not args.datasets:
        raise StitchError("give -models and -datasets, or -comparison with the comparison.json of an earlier run")
    notes = dict(split(text, "a note") for text in args.notes or ())
    models = [ModelEntry.parse(text) for text in args.models]
    unknown = [name for name in notes if name not in [m.name for m in models]]
    if unknown:
        raise StitchError(f"-notes {unknown[0]}=... names none of the models {', '.join(m.name for m in models)}")
    settings = {"checkpoint_name": args.chk, "seed": args.seed}
    return {"models": [replace(m, note=notes.get(m.name, "")) for m in models],
            "datasets": [*map(TestSet.parse, args.datasets),
                         *(TestSet.parse(text, unseen=True) for text in args.unseen or ())],
            "host": args.host, "own": args.own,
            "labels": read_labels(args.djfile) if args.djfile else None, "tolerance": args.tolerance, "folds": args.f,
            "mirroring": not args.disable_tta, **{k: v for k, v in settings.items() if v is not None}}


def recorded(args: argparse.Namespace) -> tuple:
    """The comparison in a file, and arguments of `evaluate` that make it again."""
    from nnunetv2_stitch.errors import StitchError
    from nnunetv2_stitch.evaluation.comparison import read_comparison
    from nnunetv2_stitch.evaluation.evaluate import inputs_of
    also = [f"-{name}" for name in (*RECORDED, "chk") if getattr(args, name) is not None]
    also += ["--disable_tta"] if args.disable_tta else []
    if also:
        raise StitchError(f"-comparison takes its inputs from the file, so {also[0]} has no place beside it; leave one "
                          f"of them out")
    before = read_comparison(args.comparison)
    return before, inputs_of(before)


def print_result(comparison, files: dict[str, str]) -> None:
    from nnunetv2_stitch.evaluation.rows import party_rows, reading, three_rows
    from nnunetv2_stitch.evaluation.tables import text_table
    for party in comparison.parties:
        print(f"\n{party} ({comparison.whose(party)}), {comparison.labels.main}, mean [95 % interval]:\n")
        print(text_table(party_rows(comparison, party)))
    if three := three_rows(comparison):
        print(f"\nOwn, partner's and unseen, Dice, {comparison.labels.main}, mean [95 % interval]:\n")
        print(text_table(three))
    print("\n" + "\n".join(reading(comparison)))
    print("\n".join((*comparison.legend, *comparison.remarks)))
    for name, meaning in (("report", "everything on one page"), ("markdown", "the tables"), ("csv", "every value"),
                          ("json", "every value, to make all this again with -comparison")):
        print(f"  {files[name]}  ({meaning})")


def print_changes(before, after, path: str) -> None:
    from nnunetv2_stitch.evaluation.comparison import changes
    found = changes(before, after)
    if found:
        print(f"\n{len(found)} of {len(after.scores)} rows differ from those in {path}, first {found[0]}: inputs or "
              f"models have changed since.")
    else:
        print(f"\nAll {len(after.scores)} rows are those of {path}.")
