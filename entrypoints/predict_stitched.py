"""nnUNetv2_predict_stitched: predict with a stitched model."""

from __future__ import annotations

import argparse
import os

from nnunetv2_stitch.entrypoints.common import add_common, groups, ready_device, run_parsed, say
from nnunetv2_stitch.entrypoints.parties import add_stitched_model, party_or


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_predict_stitched",
        description="Predict with a stitched nnU-Net. Takes the flags of nnUNetv2_predict; trainer, plans and "
                    "configuration are found when the dataset has one stitched model.")
    parties, choosing, memory, running = groups(parser, "parties", "choosing", "memory", "running")
    add = parties.add_argument
    add("-i", required=True, metavar="FOLDER", help="images, named as nnU-Net expects (CASE_0000.nii.gz ...)")
    add_stitched_model(parties)
    add("-prev_stage_predictions", metavar="FOLDER", help=argparse.SUPPRESS)  # of cascades, which are never stitched
    add = choosing.add_argument
    add("-mode", type=party_or("stitched", "ensemble"), default="stitched", metavar="stitched|ensemble|host|partner",
        help="who answers: the stitched ensemble, the plain ensemble of all parents, or one parent alone. Further "
             "partners are partner2 and so on. Default: %(default)s")
    add("-step_size", type=float, default=0.5, metavar="X", help="step of the sliding window, as a part of its size. "
                                                                 "Default: %(default)s")
    add("--disable_tta", action="store_true", help="no mirroring: faster, a little less accurate")
    memory.add_argument("--not_on_device", action="store_true", help="gather a case's answer in the computer's memory "
                        "and not on the GPU. That is slower, for large cases")
    add = running.add_argument
    add("-o", required=True, metavar="FOLDER", help="where the segmentations go; created if need be")
    add("--save_probabilities", action="store_true", help="also write class probabilities (npz)")
    add("--save_disagreement", action="store_true", help="also write, into OUTPUT/disagreement, where the parents "
        "differ, in percent per voxel. With a gate also, into OUTPUT/shares, the host's share")
    add("--continue_prediction", "--c", action="store_true", help="keep what is predicted already and go on")
    add("-npp", type=int, metavar="N", help="processes for preprocessing. Default: nnU-Net's variable nnUNet_npp, else "
        "3 on a GPU and 0 on the CPU, where they would only compete with the network")
    add("-nps", type=int, metavar="N", help="processes for export. Default: nnU-Net's variable nnUNet_nps, else as "
                                            "-npp")
    add("-num_parts", type=int, default=1, metavar="N", help="number of such calls that share the work. "
                                                             "Default: %(default)s")
    add("-part_id", type=int, default=0, metavar="N", help="which of them this one is, from 0. Default: %(default)s")
    add_common(running, trust=True)
    return parser


def predict_stitched_entry() -> None:
    args = build_parser().parse_args()
    run_parsed(main, args, resume="--continue_prediction")


def main(args: argparse.Namespace) -> None:
    from nnunetv2_stitch.errors import StitchError
    from nnunetv2_stitch.fileio import is_writable
    if (args.d is None) == (args.m is None):
        raise StitchError("give either -d DATASET or -m MODEL_FOLDER")
    if not 0 < args.step_size <= 1:
        raise StitchError(f"-step_size {args.step_size} is not above 0 and at most 1")
    if not 0 <= args.part_id < args.num_parts:
        raise StitchError(f"-part_id {args.part_id} must be from 0 to {args.num_parts - 1}, below -num_parts")
    if args.prev_stage_predictions is not None:
        raise StitchError("-prev_stage_predictions is for the second stage of a cascade, and a stitched model has no "
                          "stages; leave it out")
    if not os.path.isdir(args.i):
        raise StitchError(f"input folder {args.i} does not exist")
    if not is_writable(args.o):
        raise StitchError(f"no permission to write into {args.o}; choose another folder with -o")
    device = ready_device(args)
    from nnunetv2_stitch.inference.find import find_stitched_model
    from nnunetv2_stitch.inference.images import require_images
    from nnunetv2_stitch.inference.predictor import StitchedPredictor

    folder = args.m or find_stitched_model(args.d, args.c, args.tr, args.p)
    predictor = StitchedPredictor(
        tile_step_size=args.step_size, use_mirroring=not args.disable_tta, device=device, verbose=args.verbose,
        perform_everything_on_device=device.type == "cuda" and not args.not_on_device,
        verbose_preprocessing=args.verbose, allow_tqdm=not args.disable_progress_bar)
    predictor.initialize_from_trained_model_folder(folder, args.f, args.chk, args.mode)
    require_images(args.i, predictor.dataset_json["file_ending"], predictor.uncompiled.input_channels,
                   predictor.plans_manager.image_reader_writer_class())
    os.makedirs(args.o, exist_ok=True)
    with predictor.keeping_shares_in(args.o):
        predict(predictor, args, device.type)
    if args.save_disagreement:
        predictor.save_share_maps(args.i, os.path.join(args.o, "shares"), not args.continue_prediction,
                                  args.num_parts, args.part_id)
        predictor.save_disagreement(args.i, os.path.join(args.o, "disagreement"), not args.continue_prediction,
                                    args.num_parts, args.part_id)
    if not args.continue_prediction:
        warn_of_old_maps(args.o, {"disagreement", *(["shares"] if predictor.uncompiled.is_gated else [])}
                         if args.save_disagreement else set())


def warn_of_old_maps(output: str, written: set[str]) -> None:
    """Maps that were there before are of other answers; who made them is not known, so they stay."""
    for name in ("disagreement", "shares"):
        if name not in written and os.path.isdir(os.path.join(output, name)):
            say(f"WARNING: {os.path.join(output, name)} was there before and is not of these answers; remove it")


def default_workers(variable: str, device: str) -> int:
    """As many as nnU-Net's environment variable says, read as nnU-Net reads it."""
    from nnunetv2_stitch.nnunet_internals import read_variable
    return read_variable(variable, 0 if device == "cpu" else 3)


def predict(predictor, args: argparse.Namespace, device: str) -> None:
    """In one process on the CPU (every worker would import nnU-Net anew), as nnU-Net elsewhere or when asked to."""
    workers = [n if n is not None else default_workers(name, device)
               for name, n in (("nnUNet_npp", args.npp), ("nnUNet_nps", args.nps))]
    overwrite = not args.continue_prediction
    if workers == [0, 0] and args.num_parts == 1:
        predictor.predict_from_files_sequential(args.i, args.o, save_probabilities=args.save_probabilities,
                                                overwrite=overwrite)
        return
    predictor.predict_from_files(
        args.i, args.o, save_probabilities=args.save_probabilities, overwrite=overwrite,
        num_processes_preprocessing=max(1, workers[0]), num_processes_segmentation_export=max(1, workers[1]),
        num_parts=args.num_parts, part_id=args.part_id)
