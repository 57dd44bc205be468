"""nnUNetv2_compare_stitched: every baseline beside the stitched ensemble, on the same folds and test cases."""

from __future__ import annotations

import argparse

from nnunetv2_stitch.devices import set_up_device
from nnunetv2_stitch.entrypoints.common import (
    add_common,
    add_trust,
    positive_int,
    resolve_device,
    run,
    run_trusting,
)
from nnunetv2_stitch.entrypoints.evaluate_stitched import millimetres, print_result
from nnunetv2_stitch.entrypoints.parties import add_parties, parse_parties, parties_of, positions


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_compare_stitched",
        description="Compare stitching with what else could be done: each party alone, plain and weighted ensembles, "
                    "fine-tuning, an adapted partner, merged data, federated learning, weight averages, gates, and "
                    "other ways of stitching. "
                    "Trains what is not trained yet, on the folds of A's model and with the parents' numbers of epochs "
                    "and iterations; what is finished is reused. Then predicts and evaluates the test cases of every "
                    "party, each for itself. Rows that need B's images are left out where these are not preprocessed.")
    add_parties(parser)
    add = parser.add_argument
    add("-o", metavar="FOLDER", help="where predictions, tables, figures and the page go. Default: "
                                     "comparison_with_<DATASET_B> beside A's models")
    add("-datasets", nargs="+", metavar="NAME=DIR",
        help="test sets, A's first: nnU-Net raw datasets with imagesTs and labelsTs. Default: those of A and B")
    add("-unseen", nargs="+", metavar="NAME=DIR",
        help="test sets of hospitals that are no party, which trained nothing here: folders as for -datasets. They are "
             "shown apart, each and their mean")
    add("-rows", nargs="+", metavar="ROW", help="only these rows; --list_rows names them. Default: all")
    add("--list_rows", action="store_true", help="print the rows and what each needs, and leave")
    add("-positions", type=positions, default="all", metavar="all|blocks|LIST",
        help="which layers get stitches, as in nnUNetv2_train_stitch. Default: %(default)s")
    add("-epochs", type=positive_int, metavar="N", help="epochs of the stitches. Default: nnUNetv2_train_stitch's")
    add("-iterations", type=positive_int, metavar="N", help="iterations per epoch of the stitches. Default: 250")
    add("-baseline_epochs", type=positive_int, metavar="N",
        help="epochs of fine-tuning, merged and federated training. Default: those of the parents' trainers. Also of "
             "adapting, whose default is that of nnUNetv2_adapt_party")
    add("-baseline_iterations", type=positive_int, metavar="N", help="their iterations per epoch. Default: as above")
    add("-seed", type=int, default=12345, help="seed of all that is trained here. Default: %(default)s")
    add("-o_p", default="nnUNetStitchPlans", metavar="PLANS_NAME",
        help="plans of the stitched model; a finished one is reused. Default: %(default)s")
    add("-tolerance", type=millimetres, metavar="MM", help="of the surface Dice. Default: one voxel")
    add("-worst", type=int, default=3, metavar="N", help="worst cases of each party that are shown. "
                                                         "Default: %(default)s")
    add("--disable_tta", action="store_true", help="no mirroring in predictions: faster, a little less accurate")
    add("--c", dest="continue_training", action="store_true", help="go on with an interrupted comparison")
    add_trust(parser)
    add_common(parser)
    return parser


def compare_stitched_entry() -> None:
    import sys
    if "--list_rows" in sys.argv[1:]:
        list_rows()
        return
    args = parse_parties(build_parser())
    run(run_trusting(lambda: main(args), args.trust), verbose=args.verbose, resume="--c")


def list_rows() -> None:
    from nnunetv2_stitch.baselines.rows import ROWS
    for row in ROWS:
        print(f"{row.key:<24}{row.name}{f'  ({row.note})' if row.note else ''}")


def folders(given: list[str] | None) -> dict[str, str] | None:
    """Test sets by name. Raises StitchError if a name is given twice."""
    from nnunetv2_stitch.evaluation.entries import require_distinct, split
    if given is None:
        return None
    pairs = [split(text, "a dataset") for text in given]
    require_distinct((name for name, _ in pairs), "dataset")
    return dict(pairs)


def main(args: argparse.Namespace) -> None:
    from nnunetv2_stitch.errors import StitchError
    datasets, unseen = map(folders, (args.datasets, args.unseen))
    device = resolve_device(args.device)
    set_up_device(device)
    from nnunetv2_stitch.baselines.compare import compare
    from nnunetv2_stitch.evaluation.output import write_comparison

    def say(line: str) -> None:
        print(line, flush=True)

    parties = parties_of(args)
    if parties.pop("more"):
        raise StitchError("a comparison is of two parties, and so is each of its rows: compare the host with each "
                          "partner by itself, or put models of more parties side by side with "
                          "nnUNetv2_evaluate_stitched")
    result = compare(
        parties.pop("dataset_a"), parties.pop("dataset_b"), args.o, datasets, args.rows, unseen=unseen, device=device,
        resume=args.continue_training, progress=not args.disable_progress_bar, baseline_epochs=args.baseline_epochs,
        baseline_iterations=args.baseline_iterations, tta=not args.disable_tta, tolerance=args.tolerance,
        say=lambda line: say(f"\n=== {line}"), configuration=args.configuration, folds=args.f, trainer_a=args.tr_a,
        plans_a=args.p_a, checkpoint_name=args.chk,
        positions=args.positions, epochs=args.epochs, iterations=args.iterations, seed=args.seed, plans_name=args.o_p,
        **parties)
    print_result(result.comparison, write_comparison(result.comparison, result.folder, args.worst, say))
