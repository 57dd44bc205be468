"""nnUNetv2_export_party: a trained model as a zip for a partner, without anything that the partner does not need."""

from __future__ import annotations

import argparse

from nnunetv2_stitch.entrypoints.common import add_trust, add_verbose, groups, run_parsed, say
from nnunetv2_stitch.entrypoints.parties import fold


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_export_party",
        description="Write a trained nnU-Net to a zip for a partner: weights, cleaned plans.json and dataset.json, a "
                    "model card. No names of cases, computers or folders, no image sizes, logs or optimizer state. "
                    "The partner installs it with nnUNetv2_install_party.")
    parties, running = groups(parser, "parties", "running")
    add = parties.add_argument
    add("-m", metavar="MODEL_FOLDER", help="model folder TRAINER__PLANS__CONFIGURATION")
    add("-d", metavar="DATASET", help="dataset name or id, instead of -m")
    add("-c", metavar="CONFIG", help="with -d: configuration. Default: the only one there is")
    add("-tr", metavar="TRAINER", help="with -d: trainer. Default: the only one there is")
    add("-p", metavar="PLANS", help="with -d: plans. Default: the only ones there are")
    add("-f", nargs="+", type=fold, metavar="FOLD", help="folds. Default: all that are trained")
    add("-chk", default="checkpoint_final.pth", metavar="NAME", help="checkpoint. Default: %(default)s")
    add = running.add_argument
    add("-o", required=True, metavar="FILE.zip", help="zip to write; replaced if it is there")
    add("-name", metavar="NAME", help="what the model is called in the zip. Default: its dataset's name")
    add("-licence", default="", metavar="TEXT", help="licence of the model, for the card. Default: the one that it "
        "came with, if any")
    add("-contact", default="", metavar="TEXT", help="whom to ask, for the card")
    add("--stock", action="store_true", help="write a zip that nnUNetv2_install_pretrained_model_from_zip installs")
    add("--no_signature", action="store_true", help="leave out the signature: some kilobytes of statistics of what the "
        "training images look like to the network, and no image. By it the partner's gate knows images like yours")
    add_trust(running)
    add_verbose(running)
    return parser


def export_party_entry() -> None:
    args = build_parser().parse_args()
    run_parsed(main, args)


def main(args: argparse.Namespace) -> None:
    from nnunetv2_stitch.errors import StitchError
    if (args.m is None) == (args.d is None):
        raise StitchError("give either -m MODEL_FOLDER or -d DATASET")
    if args.m is not None and (args.c or args.tr or args.p):
        raise StitchError("-c, -tr and -p choose among the models of -d DATASET; with -m leave them out")
    from nnunetv2_stitch.exchange.card import INTENSITIES_KEPT
    from nnunetv2_stitch.exchange.export import export_party

    done = export_party(find(args), args.o, folds=args.f, checkpoint_name=args.chk, name=args.name,
                        licence=args.licence, contact=args.contact, stock=args.stock, signature=not args.no_signature,
                        say=say)
    print("Left out:")
    for item in done.left_out:
        print(f"  {item}")
    print(f"Kept: {INTENSITIES_KEPT}")
    manifest = done.manifest
    print(f"{done.path}\n  {manifest.name}, {manifest.identifier}, folds {', '.join(f.fold for f in manifest.folds)}, "
          f"{done.size / 2**20:.1f} MiB\n  sha256 {done.sha256}")
    print_licence(manifest, args.licence)
    print("Your partner runs:")
    print(f"  nnUNetv2_install_pretrained_model_from_zip {done.path}" if args.stock
          else f"  nnUNetv2_install_party {done.path} -as NAME")


def print_licence(manifest, given: str) -> None:
    """What the card says that the partner may do with the model, where it is not what was given."""
    if manifest.licence and not given:
        print(f"The licence that the model came with goes on: {manifest.licence}. -licence puts another in its place.")
    elif manifest.made_from and not given:
        print(f"The card says what went into this model: {manifest.made_from}. Of your own part no licence is named; "
              f"-licence adds one.")
    elif not given:
        print("No licence is named: the partner will not know what it may do with this model. Give one with -licence.")


def find(args: argparse.Namespace):
    """The model folder that the flags mean."""
    from nnunetv2_stitch.errors import StitchError
    from nnunetv2_stitch.parties.find import find_models
    from nnunetv2_stitch.parties.model_folder import read_model_folder
    if args.m is not None:
        return read_model_folder(args.m, args.chk)
    models = find_models(args.d, checkpoint_name=args.chk, configuration=args.c, trainer=args.tr, plans=args.p)
    if len(models) > 1:
        raise StitchError(f"{models[0].dataset_name} has several models: {', '.join(m.identifier for m in models)}; "
                          f"choose with -c, -tr or -p")
    return models[0]
