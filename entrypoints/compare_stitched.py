"""nnUNetv2_compare_stitched: every baseline beside the stitched ensemble, on the same folds and test cases."""

from __future__ import annotations

import argparse

from nnunetv2_stitch.entrypoints.common import add_common, groups, positive_int, ready_device, run_parsed, say, say_step
from nnunetv2_stitch.entrypoints.evaluate_stitched import millimetres, print_result, whole_number
from nnunetv2_stitch.entrypoints.parties import add_parties, parse_parties, parties_of, positions


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_compare_stitched",
        description="Compare stitching with what else could be done: each party alone, plain and weighted ensembles, "
                    "fine-tuning, an adapted partner, pooled data, federated learning, weight averages, gates, and "
                    "other ways of stitching. "
                    "Trains what is not trained yet, on the folds of A's model and with the parents' numbers of epochs "
                    "and iterations; what is finished is reused. Then predicts and evaluates the test cases of every "
                    "party, each for itself. Rows that need B's images are left out where these are not preprocessed.")
    parties, fitting, choosing, running = groups(parser, "parties", "fitting", "choosing", "running")
    add_parties(parties)
    add = parties.add_argument
    add("-datasets", nargs="+", metavar="NAME=DIR",
        help="test sets, A's first: nnU-Net raw datasets with imagesTs and labelsTs. Default: those of A and B")
    add("-unseen", nargs="+", metavar="NAME=DIR",
        help="test sets of hospitals that are no party, which trained nothing here: folders as for -datasets. They are "
             "shown apart, each and their mean")
    add = fitting.add_argument
    add("-positions", type=positions, default="all", metavar="all|blocks|LIST",
        help="which layers get stitches, as in nnUNetv2_train_stitch. Default: %(default)s")
    add("-epochs", type=positive_int, metavar="N", help="epochs of the stitches. Default: 50")
    add("-iterations", type=positive_int, metavar="N", help="iterations per epoch of the stitches. Default: 250")
    add("-baseline_epochs", type=positive_int, metavar="N",
        help="epochs of fine-tuning, adapting, pooled and federated training. Default: nnUNetv2_adapt_party's for "
             "adapting, else those of the parents' trainers")
    add("-baseline_iterations", type=positive_int, metavar="N", help="iterations per epoch of these. Default: as of "
                                                                     "-baseline_epochs")
    add("-seed", type=int, default=12345, help="seed of all that is trained here. Default: %(default)s")
    add = choosing.add_argument
    add("-rows", nargs="+", metavar="ROW", help="only these rows; --list_rows names them. Default: all")
    add("--list_rows", action="store_true", help="print the rows and what each needs, and leave")
    add("-tolerance", type=millimetres, metavar="MM", help="tolerance of the surface Dice. Default: one voxel")
    add("-worst", type=whole_number, default=3, metavar="N",
        help="how many of the worst cases of each party are shown. Default: %(default)s")
    add("--disable_tta", action="store_true", help="no mirroring in predictions: faster, a little less accurate")
    add = running.add_argument
    add("-o", metavar="FOLDER", help="where predictions, tables, figures and the page go. Default: "
                                     "comparison_with_<DATASET_B> beside A's models")
    add("-o_p", default="nnUNetStitchPlans", metavar="PLANS_NAME",
        help="name of the stitched model's plans. A finished model of this name is reused. Default: %(default)s")
    add("--c", dest="continue_training", action="store_true", help="go on with an interrupted comparison")
    add_common(running, trust=True)
    return parser


def compare_stitched_entry() -> None:
    args = parse_parties(build_parser())
    if args.list_rows:
        list_rows()
        return
    run_parsed(main, args, resume="--c")


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
    device = ready_device(args)
    from nnunetv2_stitch.baselines.compare import compare
    from nnunetv2_stitch.evaluation.output import write_comparison

    parties = parties_of(args)
    if parties.pop("more"):
        raise StitchError("a comparison is of two parties, and so is each of its rows: compare the host with each "
                          "partner by itself, or put models of more parties side by side with "
                          "nnUNetv2_evaluate_stitched")
    result = compare(
        parties.pop("dataset_a"), parties.pop("dataset_b"), args.o, datasets, args.rows, unseen=unseen, device=device,
        resume=args.continue_training, progress=not args.disable_progress_bar, baseline_epochs=args.baseline_epochs,
        baseline_iterations=args.baseline_iterations, tta=not args.disable_tta, tolerance=args.tolerance,
        say=say_step, configuration=args.configuration, folds=args.f, trainer_a=args.tr_a,
        plans_a=args.p_a, checkpoint_name=args.chk,
        positions=args.positions, epochs=args.epochs, iterations=args.iterations, seed=args.seed, plans_name=args.o_p,
        **parties)
    print_result(result.comparison, write_comparison(result.comparison, result.folder, args.worst, say))
