"""What the commands about parties have in common: which models are meant, folds, positions, whose answer."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nnunetv2_stitch.entrypoints.common import Arguments


#: how the parties are named on the command line, for messages
HOST, PARTNER = "the host's dataset DATASET_A", "the partner, by a second dataset DATASET_B or with -m_b ZIP_OR_FOLDER"


def fold(text: str) -> int | str:
    """Argparse type: a fold as nnU-Net names it."""
    if text == "all":
        return text
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"'{text}' is not a fold: give 0, 1, 2, ... or all")
    return int(text)


def positions(text: str) -> str | list[int]:
    """Argparse type: `all`, `blocks`, or positions such as `3,7,20-25`."""
    if text in ("all", "blocks"):
        return text
    chosen: list[int] = []
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            chosen += range(int(first), int(last or first) + 1)
    except ValueError:
        chosen = []
    if not chosen:
        raise argparse.ArgumentTypeError(f"'{text}' is neither all, blocks, nor positions such as 3,7,20-25")
    return chosen


def position(text: str) -> int | float:
    """Argparse type: an index, or with a decimal point the progress in the host from 0.0 to 1.0."""
    try:
        value = float(text) if "." in text else int(text)
    except ValueError:
        value = -1
    if value < 0 or (isinstance(value, float) and value > 1):
        raise argparse.ArgumentTypeError(f"'{text}' is neither a position such as 44 nor a progress such as 0.65")
    return value


def party_or(*others: str):
    """Argparse type: `host`, `partner`, `partner2`, ..., or one of `others`."""
    def party(text: str) -> str:
        if text not in (*others, "host", "partner") and not (text[:7] == "partner" and text[7:].isdigit()):
            choices = ", ".join((*others, "host", "partner", "partner2"))
            raise argparse.ArgumentTypeError(f"'{text}' is not one of {choices}, ...")
        return text
    return party


def add_parties(group: Arguments) -> None:
    """Add all datasets, and which of their models and folds are meant."""
    add = group.add_argument
    add("parties", metavar="DATASET", nargs="*", help="the host's dataset (A), then its partners' (B), by name or id. "
        "Of a partner only the model is read. Leave out a dataset whose model -m_a or -m_b names. A flag about B takes "
        "one value for all partners, or one for each in their order; - stands for nothing")
    add("-m_a", metavar="MODEL", help="A's model folder, if it is not in nnUNet_results")
    add("-m_b", nargs="+", default=[], metavar="MODEL", help="B's model: a folder anywhere, or a zip as it was sent. "
        "These partners come after those that are named by dataset")
    add_name_maps(group, nargs="+")
    add("-c", dest="configuration", metavar="CONFIG",  # dest, because --c would have the same
        help="configuration, e.g. 2d. Default: the one that all are trained in")
    add("-f", nargs="+", type=fold, metavar="FOLD", help="folds of A. Default: all that A has trained")
    add("-tr_a", metavar="TRAINER", help="trainer of A's model. Default: the one that A and B share, else A's only one")
    add("-p_a", metavar="PLANS", help="plans of A's model. Default: those that A and B share, else A's only ones")
    add("-tr_b", nargs="+", metavar="TRAINER", help="trainer of B's model. Default: as for A")
    add("-p_b", nargs="+", metavar="PLANS", help="plans of B's model. Default: as for A")
    add("-f_b", nargs="+", type=lambda text: text if text == "-" else fold(text), metavar="FOLD",
        help="fold of B for all folds of A. Default: the same fold, else 'all', else B's first")
    add("-chk", default="checkpoint_final.pth", metavar="NAME", help="checkpoint of all models. Default: %(default)s")
    add("-chk_a", metavar="NAME", help="A's checkpoint, e.g. checkpoint_best.pth of a training that has not ended. "
                                       "Default: -chk")
    add("-chk_b", nargs="+", metavar="NAME", help="B's checkpoint. Default: -chk")


def add_name_maps(group: Arguments, nargs: str | None = None) -> None:
    """Add `-label_map` and `-channel_map`, whose files `read_synonyms` reads."""
    group.add_argument("-label_map", nargs=nargs, metavar="FILE.json", help="labels that B names otherwise: "
                       '{"name at B": "name at A", ...}, null for a label that is not wanted')
    group.add_argument("-channel_map", nargs=nargs, metavar="FILE.json", help="input channels that B names otherwise, "
                       "in the same form")


def parse_parties(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line, where the datasets may stand anywhere among the options.

    That is `parse_intermixed_args`; but the argparse of PyPI, which batchgenerators installs, lacks it, and takes the
    place of the standard library's wherever PYTHONPATH names site-packages.
    """
    args, rest = parser.parse_known_args()
    if any(text.startswith("-") for text in rest):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    args.parties += rest
    return args


def parties_of(args: argparse.Namespace) -> dict:
    """Who the host and its partners are, and how their names go together, as fields of `pipeline.Request`.

    Raises:
        StitchError: too many or too few datasets, unreadable maps of names, or what is said of partners does not fit
            their number.
    """
    from nnunetv2_stitch.bridging.names import NameMaps
    from nnunetv2_stitch.errors import StitchError
    from nnunetv2_stitch.exchange.parents import Partner
    own = args.parties[:1] if args.m_a is None else []
    others = args.parties[len(own):]
    wanted = [*([f"{HOST}, or its model with -m_a FOLDER"] if args.m_a is None and not own else []),
              *([PARTNER] if not others and not args.m_b else [])]
    if wanted:
        raise StitchError(f"give {', and '.join(wanted)}; found {', '.join(args.parties) or 'none'}")
    count = len(others) + len(args.m_b)

    def each(flag: str, values: list | None) -> list:
        values = [None if v == "-" else v for v in values or [None]]
        if len(values) not in (1, count):
            raise StitchError(f"{flag} has {len(values)} values for {count} partners; give one for all or one for each")
        return values if len(values) == count else values * count

    maps = map(NameMaps.read, each("-label_map", args.label_map), each("-channel_map", args.channel_map))
    partners = [Partner(*who) for who in zip(
        [*others, *[None] * len(args.m_b)], [*[None] * len(others), *args.m_b], each("-tr_b", args.tr_b),
        each("-p_b", args.p_b), each("-f_b", args.f_b), maps, each("-chk_b", args.chk_b))]
    first = partners[0]
    return dict(dataset_a=own[0] if own else None, model_a=args.m_a, dataset_b=first.dataset, model_b=first.model,
                trainer_b=first.trainer, plans_b=first.plans, fold_b=first.fold, names=first.names,
                checkpoint_a=args.chk_a, checkpoint_b=first.checkpoint_name, more=tuple(partners[1:]))


def add_stitched_model(group) -> None:
    """Which stitched model, as nnUNetv2_predict names one: `-d -c -f -p -tr -chk`, or `-m` instead of `-d`."""
    add = group.add_argument
    add("-d", metavar="DATASET", help="dataset name or id of the host")
    add("-m", metavar="MODEL_FOLDER", help="model folder, instead of -d; needs no environment variable")
    add("-c", metavar="CONFIG", help="configuration. Default: the only one there is")
    add("-f", nargs="+", type=fold, metavar="FOLD", help="folds to average. Default: all that are trained")
    add("-p", metavar="PLANS", help="plans. Default: the only ones there are")
    add("-tr", metavar="TRAINER", help="trainer. Default: the only one there is")
    add("-chk", default="checkpoint_final.pth", metavar="NAME", help="checkpoint. Default: %(default)s")
