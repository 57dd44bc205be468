"""nnUNetv2_stitch_view: one case under a stitched model, as a picture and as files for viewers."""

from __future__ import annotations

import argparse
import os

from nnunetv2_stitch.entrypoints.common import add_common, groups, ready_device, run_parsed
from nnunetv2_stitch.entrypoints.parties import add_stitched_model

DEFAULT_OUTPUT = "nnUNetv2_stitch_view"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_stitch_view",
        description="Look at one case under a stitched model: the image, what each parent alone and the stitched model "
                    "say, where the parents disagree and, with a gate, each party's share of the answer. Writes a "
                    "picture, and every answer and map as a file in the image's own geometry.")
    parties, choosing, running = groups(parser, "parties", "choosing", "running")
    add = parties.add_argument
    add("-i", required=True, metavar="CASE", help="the case: a file of any of its channels, which is the one that is "
        "shown, or a folder with this case alone")
    add_stitched_model(parties)
    add = choosing.add_argument
    add("-l", metavar="FILE", help="true labels of the case, in its geometry, drawn as an outline. Default: none")
    add("--disable_tta", action="store_true", help="no mirroring: faster, a little less accurate")
    running.add_argument("-o", default=DEFAULT_OUTPUT, metavar="FOLDER",
                         help="where the picture and the files go; created if need be. Default: %(default)s")
    add_common(running, trust=True)
    return parser


def stitch_view_entry() -> None:
    args = build_parser().parse_args()
    run_parsed(main, args)


def main(args: argparse.Namespace) -> None:
    from nnunetv2_stitch.errors import StitchError
    from nnunetv2_stitch.fileio import is_writable
    if (args.d is None) == (args.m is None):
        raise StitchError("give either -d DATASET or -m MODEL_FOLDER")
    if not is_writable(args.o):
        raise StitchError(f"no permission to write into {args.o}; choose another folder with -o")
    if os.path.lexists(args.o) and not os.path.isdir(args.o):
        raise StitchError(f"{args.o} is a file; choose another folder with -o")
    device = ready_device(args)
    from nnunetv2_stitch.evaluation.case_look import find_case, write_look
    from nnunetv2_stitch.inference.find import find_stitched_model
    from nnunetv2_stitch.inference.predictor import StitchedPredictor

    predictor = StitchedPredictor(
        use_mirroring=not args.disable_tta, device=device, verbose=args.verbose, verbose_preprocessing=args.verbose,
        perform_everything_on_device=device.type == "cuda", allow_tqdm=not args.disable_progress_bar)
    folder = args.m or find_stitched_model(args.d, args.c, args.tr, args.p)
    predictor.initialize_from_trained_model_folder(folder, args.f, args.chk)
    files, look = write_look(predictor, find_case(args.i, predictor.dataset_json["file_ending"]), args.o, args.l)
    print_files(files, look)


def print_files(files: dict[str, str], look) -> None:
    """What was written, a line each; then who answered, and what is not shown."""
    meanings = {"view": "the picture", "stitched": "the stitched model's answer",
                "disagreement": "where the parents differ, percent"}
    for what, path in files.items():
        _, is_share, party = what.rpartition("share_")
        meaning = f"share of {party} in the answer, percent" if is_share else meanings.get(what, f"{what} alone")
        print(f"  {path}  ({meaning})")
    print("\n".join(filter(None, [look.said, *look.remarks])), end="\n" if look.said or look.remarks else "")
