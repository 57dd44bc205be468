"""A host with several partners, on raw images: every party alone, all in a plain ensemble, and stitched.

    python benchmarks/several_parties.py FOLDER -raw RAW_FOLDER -datasets Dataset911_A Dataset913_B Dataset912_C [...]

Small parents as in the demo, the host first; what `benchmarks/study.py FOLDER` has trained is reused. Every party's
test cases are evaluated by themselves; the page with all figures is written into FOLDER. What is finished is kept.
"""

import argparse
import os
import string
from dataclasses import replace

import torch
from study import prepare_parents

from nnunetv2_stitch.demo.settings import CONFIGURATION, FOLD, PLANS, DemoSettings, environment
from nnunetv2_stitch.environment import environment_set, usable_cores
from nnunetv2_stitch.evaluation.entries import ModelEntry, TestSet
from nnunetv2_stitch.evaluation.evaluate import evaluate
from nnunetv2_stitch.evaluation.output import write_comparison
from nnunetv2_stitch.evaluation.tables import markdown_table
from nnunetv2_stitch.pipeline import Partner, train_stitch
from nnunetv2_stitch.stitching.setting import party_names

PLANS_NAME = "nnUNetStarPlans"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("-raw", required=True, help="nnU-Net raw folder that holds -datasets")
    parser.add_argument("-datasets", nargs="+", required=True, metavar="DATASET")
    parser.add_argument("-seed", type=int, default=1)
    parser.add_argument("-device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("-trainer", default=DemoSettings.trainer)
    parser.add_argument("-stitch_epochs", type=int, default=DemoSettings.stitch_epochs)
    parser.add_argument("-stitch_iterations", type=int, default=DemoSettings.stitch_iterations)
    args = parser.parse_args()
    device = torch.device(args.device)
    torch.set_num_threads(usable_cores() if args.device == "cpu" else 1)
    settings = replace(DemoSettings(), seed=args.seed, trainer=args.trainer)
    root = os.path.join(os.path.abspath(args.folder), f"seed_{args.seed}")
    with environment_set(environment(root)):
        prepare_parents(root, args.datasets, args.raw, settings, [FOLD], device)
        host, *partners = args.datasets
        result = train_stitch(
            host, partners[0], *(Partner(n, trainer=settings.trainer, plans=PLANS) for n in partners[1:]),
            trainer_a=settings.trainer, trainer_b=settings.trainer, plans_a=PLANS, plans_b=PLANS, device=device,
            configuration=CONFIGURATION, folds=[FOLD], epochs=args.stitch_epochs, iterations=args.stitch_iterations,
            seed=args.seed, plans_name=PLANS_NAME, continue_training=True, progress=False, say=print)
        letters = string.ascii_uppercase[:len(args.datasets)]
        modes = {**{f"{letter} alone": party for letter, party in zip(letters, party_names(len(letters)))},
                 "plain ensemble": "ensemble", "stitched": "stitched"}
        comparison = evaluate(
            [ModelEntry(name, result.model_folder, mode) for name, mode in modes.items()],
            [TestSet(letter, os.path.join(root, "nnUNet_raw", name)) for letter, name in zip(letters, args.datasets)],
            output=os.path.join(root, "several_parties"), device=device, say=print)
        write_comparison(comparison, os.path.join(root, "several_parties"))
    print(markdown_table(result.table))
    label = comparison.labels.main
    print(markdown_table([{"": model, **{f"{party}'s cases": comparison.summary(model, party, label).mean
                                         for party in comparison.parties}} for model in comparison.model_names]))


if __name__ == "__main__":
    main()
