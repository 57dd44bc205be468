"""Own and partner's Dice of the stitched teacher, of a student that it taught, and of one without teacher, over seeds.

    python benchmarks/distillation.py FOLDER [-seeds 1 2 3] [-epochs N -iterations N] [-unlabelled]
    python benchmarks/distillation.py FOLDER -raw RAW_FOLDER -datasets Dataset931_X Dataset932_Y [...]

Parents and stitches are those of `benchmarks/study.py`, and reused where FOLDER has them. Both students start from the
host's weights and see the same batches, for as many steps as the parents were trained or as given. `-unlabelled` adds a
student that is also taught on the partner's training images without their labels, which only a study has. Writes
`distillation.json` and `distillation.md` into FOLDER. What is finished is kept: call it again to go on.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace

import torch
from study import prepare_parents, table

from nnunetv2_stitch.baselines.compare import compare
from nnunetv2_stitch.demo.data import PARTIES
from nnunetv2_stitch.demo.settings import CONFIGURATION, FOLD, PLANS, DemoSettings, environment
from nnunetv2_stitch.distillation import distill
from nnunetv2_stitch.environment import environment_set, usable_cores
from nnunetv2_stitch.evaluation.entries import ModelEntry, TestSet
from nnunetv2_stitch.evaluation.evaluate import evaluate
from nnunetv2_stitch.evaluation.tables import markdown_table
from nnunetv2_stitch.fileio import write_json
from nnunetv2_stitch.inference.stock_predictor import stock_predictor
from nnunetv2_stitch.parties.model_folder import read_model_folder
from nnunetv2_stitch.training.stock import budget

ROWS = ("A_alone", "B_alone", "plain_ensemble", "stitched", "distilled", "untaught")
WITH_IMAGES = "distilled, B's images unlabelled"


def dice_of(comparison) -> dict[str, dict[str, float]]:
    label = comparison.labels.main
    return {model: {party: comparison.summary(model, party, label).mean for party in comparison.parties}
            for model in comparison.model_names}


def with_partners_images(root: str, teacher: str, names: list[str], settings: DemoSettings, args,
                         device) -> dict[str, float]:
    """Dice by party of a student that is taught on the partner's training images too."""
    host = names[0]
    model = read_model_folder(os.path.join(root, "nnUNet_results", host,
                                           f"{settings.trainer}__{PLANS}__{CONFIGURATION}"))
    epochs, iterations = budget(settings.trainer, model.plans, CONFIGURATION, model.dataset_json)
    result = distill(teacher, host, device=device, continue_training=True, validate=False, folds=args.folds,
                     unlabelled=os.path.join(root, "nnUNet_raw", names[1], "imagesTr"), epochs=args.epochs or epochs,
                     iterations=args.iterations or iterations, seed=settings.seed, plans_name="nnUNetUnlabelledPlans",
                     progress=False, comparison=True, say=print)
    predictor = stock_predictor(read_model_folder(result.model_folder), result.folds, device)
    sets = [TestSet(name, os.path.join(root, "nnUNet_raw", name)) for name in names]
    folders = {s.name: os.path.join(root, f"distillation_{host}_hosts", "unlabelled", s.name) for s in sets}
    for test_set in sets:
        os.makedirs(folders[test_set.name], exist_ok=True)
        predictor.predict_from_files_sequential(test_set.images_folder, folders[test_set.name])
    entries = [ModelEntry(WITH_IMAGES, predictions=folders)]
    return dice_of(evaluate(entries, sets, own=host, progress=False))[WITH_IMAGES]


def one_seed(root: str, names: list[str], settings: DemoSettings, args, device) -> dict:
    host, partner = names
    result = compare(host, partner, os.path.join(root, f"distillation_{host}_hosts"), rows=ROWS, device=device,
                     resume=True, progress=False, say=lambda line: print(f"--- {line}", flush=True),
                     baseline_epochs=args.epochs, baseline_iterations=args.iterations, configuration=CONFIGURATION,
                     folds=args.folds, trainer_a=settings.trainer, trainer_b=settings.trainer, plans_a=PLANS,
                     plans_b=PLANS, epochs=settings.stitch_epochs, iterations=settings.stitch_iterations,
                     seed=settings.seed)
    dice = dice_of(result.comparison)
    if args.unlabelled:
        dice[WITH_IMAGES] = with_partners_images(root, result.model_folders["stitched"], names, settings, args, device)
    return {"host": host, "partner": partner, "seed": settings.seed, "folds": args.folds, "dice": dice,
            "details": result.details}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("-seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("-folds", type=int, nargs="+", default=[FOLD])
    parser.add_argument("-datasets", nargs=2, metavar=("A", "B"))
    parser.add_argument("-raw", help="nnU-Net raw folder that holds -datasets")
    parser.add_argument("-epochs", type=int, help="of the students; default: the parents'")
    parser.add_argument("-iterations", type=int, help="of the students; default: the parents'")
    parser.add_argument("-unlabelled", action="store_true")
    parser.add_argument("-device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("-trainer", default=DemoSettings.trainer)
    parser.add_argument("-stitch_epochs", type=int, default=DemoSettings.stitch_epochs)
    parser.add_argument("-stitch_iterations", type=int, default=DemoSettings.stitch_iterations)
    args = parser.parse_args()
    folder, device = os.path.abspath(args.folder), torch.device(args.device)
    torch.set_num_threads(usable_cores() if args.device == "cpu" else 1)
    names = args.datasets or [p.dataset for p in PARTIES.values()]
    settings = replace(DemoSettings(), trainer=args.trainer, stitch_epochs=args.stitch_epochs,
                       stitch_iterations=args.stitch_iterations)
    studies = []
    for seed in args.seeds:
        root, seeded = os.path.join(folder, f"seed_{seed}"), replace(settings, seed=seed)
        with environment_set(environment(root)):
            prepare_parents(root, names, args.raw, seeded, args.folds, device)
            studies.append(one_seed(root, names, seeded, args, device))
        write_json(os.path.join(folder, "distillation.json"), studies)
    text = "\n".join([f"## {names[0]} hosts, partner {names[1]}, seeds {', '.join(map(str, args.seeds))}, folds "
                      f"{', '.join(map(str, args.folds))}", "", markdown_table(table(studies)), ""])
    with open(os.path.join(folder, "distillation.md"), "w") as file:
        file.write(text)
    print(text)


if __name__ == "__main__":
    main()
