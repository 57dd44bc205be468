"""nnUNetv2_stitch_info: what differs between two trained models, and whether they can be stitched."""

from __future__ import annotations

import argparse
import json
import textwrap

from nnunetv2_stitch.entrypoints.common import add_trust, run, run_trusting
from nnunetv2_stitch.entrypoints.parties import add_parties, parse_parties, parties_of


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_stitch_info",
        description="Compare trained nnU-Nets, a host with each partner, before anything is run: what is the same, "
                    "what stitching bridges and how, what is in the way. Nothing is written. Exit code 2 if they "
                    "cannot be stitched.")
    add_parties(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_trust(parser)
    parser.add_argument("--verbose", action="store_true", help="print the traceback of an error")
    return parser


def stitch_info_entry() -> None:
    args = parse_parties(build_parser())
    run(run_trusting(lambda: main(args), args.trust), verbose=args.verbose)


def main(args: argparse.Namespace) -> None:
    from nnunetv2_stitch.bridging.report import compare_parties
    from nnunetv2_stitch.errors import StitchError
    from nnunetv2_stitch.exchange.finding import find_parties
    from nnunetv2_stitch.pipeline import Request

    request = Request(**parties_of(args))
    host, partners = find_parties(request.dataset_a, request.model_a, args.configuration, args.tr_a, args.p_a,
                                  request.partners, args.chk)
    reports = [compare_parties(host, p, asked.names) for p, asked in zip(partners, request.partners)]
    if args.json:
        found = [{"host": host.path, "partner": p.path, **r.to_json()} for p, r in zip(partners, reports)]
        print(json.dumps(found[0] if len(found) == 1 else found, indent=4))
    else:
        for number, (partner, report) in enumerate(zip(partners, reports)):
            print("\n" * (number > 0) + f"host     {host.dataset_name}  {host.path}\n"
                                        f"partner  {partner.dataset_name}  {partner.path}\n")
            print_report(report)
    reasons = [f"{partner.dataset_name}, {line.name}: {line.how}" for partner, report in zip(partners, reports)
               if report.bridge is None for line in report.blocking]
    if reasons:
        raise StitchError(f"these models cannot be stitched: {'; '.join(reasons)}")


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
