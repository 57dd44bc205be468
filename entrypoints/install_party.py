"""nnUNetv2_install_party: a partner's model from a zip, checked, under a name of one's own."""

from __future__ import annotations

import argparse

from nnunetv2_stitch.entrypoints.common import add_verbose, groups, run, say


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_install_party",
        description="Install a partner's model below nnUNet_results. Takes the zip of nnUNetv2_export_party, and a zip "
                    "of stock nnU-Net that holds one model. Nothing in the zip is run; every file is checked and "
                    "written anew. If anything is wrong, nothing is installed.")
    parties, running = groups(parser, "parties", "running")
    add = parties.add_argument
    add("zip", metavar="ZIP", help="the partner's zip")
    add("-m", metavar="FOLDER", help="which model, if a stock zip holds several: TRAINER__PLANS__CONFIGURATION")
    add("-chk", default="checkpoint_final.pth", metavar="NAME", help="checkpoint of a stock zip. Default: %(default)s")
    running.add_argument("-as", dest="alias", required=True, metavar="NAME",
                         help="name here: NAME, which gets a free dataset id, or DatasetNNN_NAME")
    add_verbose(running)
    return parser


def install_party_entry() -> None:
    args = build_parser().parse_args()
    run(lambda: main(args), verbose=args.verbose)


def main(args: argparse.Namespace) -> None:
    from nnunetv2_stitch.exchange.install import install_party
    from nnunetv2_stitch.exchange.manifest import PARTY
    from nnunetv2_stitch.fileio import read_json
    from nnunetv2_stitch.parties.untrusted_json import printable

    model = install_party(args.zip, args.alias, model=args.m, checkpoint_name=args.chk,
                          say=say)
    manifest = read_json(f"{model.path}/{PARTY}")
    labels = ", ".join(f"{printable(k)}={printable(v)}" for k, v in model.dataset_json["labels"].items())
    print(f"{model.path}\n  {manifest['name']}, {manifest['network']}, folds {', '.join(map(str, model.folds))}\n"
          f"  channels {', '.join(map(printable, manifest['channels']))}; labels {labels}\n"
          f"  licence: {manifest['licence'] or 'not said, ask the sender'}\n"
          f"  sha256 of the zip {manifest['received_as']['sha256']}")
    print(f"To stitch it to a model of yours (HOST: your dataset):\n"
          f"  nnUNetv2_train_stitch HOST {model.dataset_name} -c {model.configuration}")
