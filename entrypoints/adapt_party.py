"""nnUNetv2_adapt_party: a partner's model trained on with the host's images, and moved back towards what it was."""

from __future__ import annotations

import argparse

from nnunetv2_stitch.entrypoints.common import (
    GOES_ON,
    add_budget,
    add_common,
    add_continue,
    given,
    groups,
    not_negative,
    print_commands,
    print_validation,
    ready_device,
    run_parsed,
    say_step,
)
from nnunetv2_stitch.entrypoints.parties import HOST, PARTNER, add_name_maps, fold, parse_parties
from nnunetv2_stitch.entrypoints.training_run import add_dry_run, print_dry_run

RETAIN = "retain"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_adapt_party",
        description="Train a partner's finished model on with your own images, then move it half the way back, along "
                    "the straight line between the two sets of weights. The result is one ordinary nnU-Net model of "
                    "DATASET_A. The command says whether it is as good as your own model on your validation cases, "
                    "and what to do with it.")
    parties, fitting, choosing, running = groups(parser, "parties", "fitting", "choosing", "running")
    add = parties.add_argument
    add("parties", metavar="DATASET", nargs="*", help="your dataset (A), by name or id. Then the partner's (B), unless "
                                                      "-m_b names its model. Of the partner only the model is read")
    add("-m_b", metavar="MODEL", help="B's model: a folder anywhere, or a zip as it was sent")
    add_name_maps(parties)
    add("-c", dest="configuration", metavar="CONFIG",  # dest, because --c would have the same
        help="configuration. Default: B's")
    add("-f", nargs="+", type=fold, metavar="FOLD", help="folds of A. Each begins with B's fold of that name, else "
        "'all', else its first. Default: those of A's own model, else B's")
    add("-tr_a", metavar="TRAINER", help="trainer of A's own model, with which the result is compared. Default: the "
                                         "only one")
    add("-p_a", metavar="PLANS", help="plans of A's own model. Default: the only ones")
    add("-tr_b", metavar="TRAINER", help="trainer of B's model. Default: the only one")
    add("-p_b", metavar="PLANS", help="plans of B's model. Default: the only ones")
    add("-f_b", type=fold, metavar="FOLD", help="fold of B for all folds of A. Default: see -f")
    add("-chk_b", metavar="NAME", help="B's checkpoint. Default: checkpoint_final.pth")
    add_budget(fitting, 100, 1e-3)
    add = choosing.add_argument
    add("-tolerance", type=not_negative, metavar="T", help="how much worse than A's own model the result may be on A's "
        "validation cases and count as as good, in standard errors. Default: 1.0")
    add("-alpha", type=point, metavar="A|retain", help="point of the line, a multiple of 0.1: 0 is the partner, 1 the "
        "partner trained on. retain: the first point, seen from the partner's, that your validation cases cannot tell "
        "from the best, nor from your own model. Default: 0.5")
    running.add_argument("-o_p", default="nnUNetAdaptedPlans", metavar="PLANS_NAME", help="name of the plans that are "
                         "written. Default: %(default)s")
    add_continue(running, f"{GOES_ON}. With another -tolerance or -alpha it chooses again and trains nothing")
    add_dry_run(running)
    add_common(running, trust=True)
    return parser


def point(text: str) -> float | str:
    """Argparse type: a point of the line, or `retain`."""
    return text if text == RETAIN else not_negative(text)


def adapt_party_entry() -> None:
    args = parse_parties(build_parser())
    run_parsed(main, args, resume="--c")


def main(args: argparse.Namespace) -> None:
    from nnunetv2_stitch.errors import StitchError
    wanted = 1 if args.m_b else 2
    if len(args.parties) != wanted:
        missing = [*([] if args.parties else [HOST]), *([] if args.m_b or len(args.parties) > 1 else [PARTNER])]
        found = [*args.parties, *([f"-m_b {args.m_b}"] if args.m_b else [])]
        raise StitchError(f"give {' and '.join(missing) or f'{HOST}, and one partner'}; found "
                          f"{', '.join(found) or 'none'}")
    from nnunetv2_stitch.training import AdaptRequest, adapt_party
    from nnunetv2_stitch.training.adapt_job import prepare
    request = request_of(args)
    if args.dry_run:
        asked = AdaptRequest(**request)
        print_dry_run(lambda folder: prepare(asked, args.continue_training, True, folder), args)
        return
    print_result(adapt_party(
        request.pop("dataset"), request.pop("partner"), device=ready_device(args), say=say_step,
        continue_training=args.continue_training, progress=not args.disable_progress_bar, **request))


def request_of(args: argparse.Namespace) -> dict:
    """The command's arguments as fields of `training.AdaptRequest`, those that were given."""
    from nnunetv2_stitch.bridging.names import NameMaps
    from nnunetv2_stitch.exchange.parents import Partner
    dataset, *other = args.parties
    partner = Partner(other[0] if other else None, args.m_b, args.tr_b, args.p_b, args.f_b,
                      NameMaps.read(args.label_map, args.channel_map), args.chk_b)
    alpha = {} if args.alpha is None else {"alpha": None if args.alpha == RETAIN else args.alpha}
    return given(
        dataset=dataset, partner=partner, configuration=args.configuration, folds=args.f, trainer_a=args.tr_a,
        plans_a=args.p_a, epochs=args.epochs, iterations=args.iterations, rate=args.lr, plans_name=args.o_p,
        tolerance=args.tolerance, seed=args.seed) | alpha


def print_result(result) -> None:
    print(f"\n{'alpha':>6}  Dice on your validation cases")
    for alpha, mean in result.mean.items():
        shown = "not known" if mean is None else f"{mean:.3f}"
        print(f"{alpha:>6g}  {shown}{'  <- taken' if alpha == result.alpha else ''}")
    if result.host_alone is not None:
        print(f"{'A':>6}  {result.host_alone:.3f}  your own model")
    print(f"\nalpha {result.alpha:g}: {result.reason}")
    for line in result.remarks:
        print(line)
    print_validation(result)
    print(f"\n{result.model_folder} is an ordinary nnU-Net model.")
    if result.reached is not None:
        print("On your validation cases " + ("it is as good as your own model: use it by itself." if result.reached else
                                             "your own model is better: use both, with a gate."))
    print_commands(result.commands)
