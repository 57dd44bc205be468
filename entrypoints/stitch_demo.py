"""nnUNetv2_stitch_demo: the whole story on embedded data."""

from __future__ import annotations

import argparse

from nnunetv2_stitch.entrypoints.common import add_common, groups, resolve_device, run


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_stitch_demo",
        description="Two parties train nnU-Net alone on small embedded brain MRI data, their models are stitched, and "
                    "both parents, their plain ensemble and the stitched ensemble are tested on both parties' test "
                    "cases. About 10 minutes on 2 CPU cores. Needs no environment variable and no download.")
    fitting, running = groups(parser, "fitting", "running")
    fitting.add_argument("-seed", type=int, default=None, help="seed of all trainings. Default: 12345")
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
    from nnunetv2_stitch.demo.story import check_folder, run_demo
    check_folder(args.o, args.c, args.seed)  # before the seconds that importing torch takes
    print("Two parties, each with its own images; neither sees the other's. Loading nnU-Net ...", flush=True)
    result = run_demo(args.o, device=resolve_device(args.device), resume=args.c,
                      progress=not args.disable_progress_bar, seed=args.seed,
                      say=lambda text: print(text, flush=True))
    print_result(result)


def print_result(result) -> None:
    from nnunetv2_stitch.demo.scores import reading, table_rows
    from nnunetv2_stitch.evaluation.tables import text_table
    print("\nDice on the test cases, which nothing has touched until now:\n")
    print(text_table(table_rows(result.rows)))
    print("\n" + "\n".join(reading(result.rows)))
    print(f"\nStitched at position {result.position}, {result.position_name}, chosen on A's validation cases.")
    for remark in result.remarks:
        print(remark)
    print(f"\n{result.caveat}")
    total = sum(result.seconds.values())
    print(f"\nAll steps together took {int(total // 60)} min {int(total % 60)} s.")
    for name, meaning in (("table", "this table"), ("dice", "the same as a figure"), ("overlays", "segmentations"),
                          ("results", "all numbers, case by case")):
        print(f"  {result.files[name]}  ({meaning})")
    print(f"  {result.model_folder}  (the stitched model)")
    print("\nWith your own data, once both parties have trained models below nnUNet_results:\n"
          "  nnUNetv2_train_stitch DATASET_A DATASET_B\n"
          "  nnUNetv2_predict_stitched -i INPUT_FOLDER -o OUTPUT_FOLDER -d DATASET_A")
