"""nnUNetv2_stitch_info: what differs between two trained models, and whether they can be stitched."""

from __future__ import annotations

import argparse
import textwrap

from nnunetv2_stitch.entrypoints.common import add_device, add_trust, add_verbose, groups, ready_device, run_parsed
from nnunetv2_stitch.entrypoints.parties import add_parties, parse_parties, parties_of
from nnunetv2_stitch.entrypoints.training_run import unpacking


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_stitch_info",
        description="Compare trained nnU-Nets, a host with each partner, before anything is run: what is the same, "
                    "what stitching bridges and how, what is in the way. Nothing is written. Exit code 2 if they "
                    "cannot be stitched.")
    parties, choosing, running = groups(parser, "parties", "choosing", "running")
    add_parties(parties)
    choosing.add_argument("--merge_check", action="store_true",
                          help="say also whether these models can be merged into one network (nnUNetv2_merge_party) or "
                               "must be stitched, from the loss between them on A's preprocessed data")
    running.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_trust(running)
    add_device(running)
    add_verbose(running)
    return parser


def stitch_info_entry() -> None:
    args = parse_parties(build_parser())
    run_parsed(main, args)


def main(args: argparse.Namespace) -> None:
    from nnunetv2_stitch.exchange.parents import find_parties
    from nnunetv2_stitch.pipeline import Request

    request = Request(**parties_of(args), folds=args.f)
    with unpacking() as folder:
        host, partners = find_parties(request.dataset_a, request.model_a, args.configuration, args.tr_a, args.p_a,
                                      request.partners, args.chk, args.chk_a, folder)
        tell(request, host, partners, args)


def tell(request, host, partners, args: argparse.Namespace) -> None:
    """Print the reports. Raises StitchError where nnUNetv2_train_stitch would refuse these models."""
    from nnunetv2_stitch.bridging.report import compare_parties, label_remarks
    from nnunetv2_stitch.errors import StitchError
    from nnunetv2_stitch.fileio import json_text

    reports = [compare_parties(host, p, asked.names) for p, asked in zip(partners, request.partners)]
    refusal = refused(request, host, partners, reports)
    check = merge_check(host, partners, args) if args.merge_check and refusal is None else None
    if args.json:
        more = {} if check is None else {"merge_check": check.to_json()}
        more |= {} if refusal is None else {"can_be_stitched": False, "refused": refusal}
        found = [{"host": host.path, "partner": asked.model or p.path, **r.to_json(), **more}
                 for asked, p, r in zip(request.partners, partners, reports)]
        print(json_text(found[0] if len(found) == 1 else found))
    else:
        for number, (partner, report) in enumerate(zip(partners, reports)):
            asked = request.partners[number].model
            print("\n" * (number > 0) + f"host     {host.dataset_name}  {host.path}\n"
                                        f"partner  {partner.dataset_name}  {asked or partner.path}\n")
            print_report(report)
            for remark in label_remarks(host, partner, request.partners[number].names):
                print(f"\n{remark}")
        if check is not None:
            print_check(check)
    reasons = [f"{partner.dataset_name}, {line.name}: {line.how}" for partner, report in zip(partners, reports)
               if report.bridge is None for line in report.blocking]
    reasons += [] if refusal is None else [refusal]
    if reasons:
        raise StitchError(f"these models cannot be stitched: {'; '.join(reasons)}")
    if not args.json:
        print("\nThese models can be stitched. Give nnUNetv2_train_stitch the same arguments; nnUNetv2_adapt_party "
              "trains the partner's network on with the host's images first.")


def refused(request, host, partners, reports) -> str | None:
    """Why nnUNetv2_train_stitch would not take models that no line of the reports blocks; None where it would."""
    from nnunetv2_stitch.errors import StitchError
    from nnunetv2_stitch.pipeline.prepare import require_stitchable
    bridges = [r.bridge for r in reports]
    try:
        if None not in bridges:
            require_stitchable(request, host, partners, bridges)
    except StitchError as error:
        return str(error)
    return None


def merge_check(host, partners, args: argparse.Namespace):
    """Whether host and partners can be merged, by the host's data of the first fold asked for."""
    from nnunetv2_stitch.errors import StitchError
    from nnunetv2_stitch.merging.check_models import check_models
    device = ready_device(args)
    if not host.folds:
        raise StitchError(f"{host.path} has no trained fold; choose another checkpoint with -chk")
    fold = args.f[0] if args.f else host.folds[0]
    return check_models([host, *partners], host.dataset_name, host.configuration, fold, device, host.plans_name)


def print_check(check) -> None:
    from nnunetv2_stitch.evaluation.tables import text_table
    print("\n" + check.sentence)
    if check.note:
        print(f"The loss was not measured: {check.note}")
    if check.lines:
        print("\n" + text_table(check.table()))


def print_report(report) -> None:
    """The table of a compatibility report."""
    titles = ("property", "host", "partner", "verdict", "what is done about it")
    rows = [(line.name, line.host, line.partner, line.kind, line.how) for line in report.lines]
    wide = (24, 34, 34, 11)
    widths = [min(limit, max(len(r[i]) for r in (titles, *rows))) for i, limit in enumerate(wide)]
    for row in (titles, *rows):
        cells = [textwrap.wrap(text, width) or [""] for text, width in zip(row, [*widths, 60])]
        for n in range(max(map(len, cells))):
            parts = [(c[n] if n < len(c) else "").ljust(w) for c, w in zip(cells, [*widths, 60])]
            print("  ".join(parts).rstrip())
