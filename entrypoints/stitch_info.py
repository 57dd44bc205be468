"""nnUNetv2_stitch_info: what differs between two trained models, and whether they can be stitched."""

from __future__ import annotations

import argparse
import json
import textwrap

from nnunetv2_stitch.entrypoints.common import add_trust, run, run_trusting
from nnunetv2_stitch.entrypoints.train_stitch import add_parties, parse_parties, parties_of


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_stitch_info",
        description="Compare two trained nnU-Nets before anything is run: what is the same, what stitching bridges and "
                    "how, what stands in the way. Nothing is written. Exit code 2 if they cannot be stitched.")
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

    parties = parties_of(args)
    names = parties.pop("names")
    host, partner = find_parties(**parties, configuration=args.configuration, trainer_a=args.tr_a, trainer_b=args.tr_b,
                                 plans_a=args.p_a, plans_b=args.p_b, checkpoint_name=args.chk)
    report = compare_parties(host, partner, names)
    if args.json:
        print(json.dumps({"host": host.path, "partner": partner.path, **report.to_json()}, indent=4))
    else:
        print(f"host     {host.dataset_name}  {host.path}\npartner  {partner.dataset_name}  {partner.path}\n")
        print_report(report)
    if report.bridge is None:
        reasons = "; ".join(f"{line.name}: {line.how}" for line in report.blocking)
        raise StitchError(f"these models cannot be stitched: {reasons}")


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
