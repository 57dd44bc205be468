"""nnUNetv2_stitch_demo: the whole story on embedded data."""

from __future__ import annotations

import argparse

from nnunetv2_stitch.entrypoints.common import add_common, groups, resolve_device, run


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_stitch_demo",
        description="What happens to two finished models, on small brain MRI data and with two trained parents that "
                    "come with the package: hospital A adapts, stitches and gates the model that B has sent, and all "
                    "are tested on both parties' test cases. Each step shows the command that it is. About 3 minutes "
                    "on 2 CPU cores. Needs no environment variable and no download.")
    fitting, running = groups(parser, "fitting", "running")
    add = fitting.add_argument
    add("--from_scratch", action="store_true", help="train both parents too, as those of the package were trained. "
                                                    "About 10 minutes more")
    add("-seed", type=int, default=None, help="seed of all trainings. Default: 1, with which the parents were trained")
    add = running.add_argument
    add("-o", default="nnUNetv2_stitch_demo", metavar="FOLDER", help="folder for everything that the demo writes. "
                                                                     "Default: ./%(default)s")
    add("--c", action="store_true", help="continue an interrupted demo; steps that are done are kept")
    add_common(running)
    return parser


def stitch_demo_entry() -> None:
    args = build_parser().parse_args()
    run(lambda: main(args), verbose=args.verbose, resume="--c")


def main(args: argparse.Namespace) -> None:
    from nnunetv2_stitch.demo.state import check_folder
    from nnunetv2_stitch.demo.story import run_demo
    # before the seconds that importing torch takes
    check_folder(args.o, args.c, args.seed, from_scratch=args.from_scratch)
    print("Two hospitals, each with its own images and its own trained model; neither sees the other's images. Loading "
          "nnU-Net ...", flush=True)
    result = run_demo(args.o, device=resolve_device(args.device), resume=args.c,
                      progress=not args.disable_progress_bar, seed=args.seed, from_scratch=args.from_scratch,
                      say=lambda text: print(text, flush=True), show=show_report)
    print_result(result)


def show_report(report) -> None:
    from nnunetv2_stitch.entrypoints.stitch_info import print_report
    print_report(report)
    print(flush=True)


def print_result(result) -> None:
    from nnunetv2_stitch.demo.scores import reading, table_rows
    from nnunetv2_stitch.evaluation.tables import text_table
    total = sum(result.seconds.values())
    print(f"\nAll steps together took {int(total // 60)} min {int(total % 60)} s.\n")
    print(text_table(table_rows(result.rows, result.way)))
    print("\n" + "\n".join(reading(result.rows)))
    print(f"\n{result.caveat}\n")
    for name, meaning in (("report", "everything on one page"), ("dice", "the table as a figure"),
                          ("results", "all numbers, case by case")):
        print(f"  {result.files[name]}  ({meaning})")
    print(f"  {result.recommended}  (the recommended model; its report.html says how it was made)")
    print("\nWith your own finished models, DATASET_A in your nnU-Net folders and B.zip from the other hospital:\n"
          "  nnUNetv2_stitch_info DATASET_A -m_b B.zip\n"
          "  nnUNetv2_adapt_party DATASET_A -m_b B.zip\n"
          "which says what to do next: use the result by itself, or, as here,\n"
          "  nnUNetv2_train_stitch DATASET_A -m_b ADAPTED_MODEL_FOLDER -fit direct -gate on\n"
          "  nnUNetv2_predict_stitched -d DATASET_A -i INPUT_FOLDER -o OUTPUT_FOLDER")
