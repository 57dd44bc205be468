"""Two parties from raw images to every row of the comparison, over seeds, in one or both directions.

    python benchmarks/study.py FOLDER [-seeds 1 2 3] [-folds 0 1 2 3] [-rows stitched direct ...] [-both]
    python benchmarks/study.py FOLDER -raw RAW_FOLDER -datasets Dataset931_X Dataset932_Y [...]

Without `-datasets` the parties are the demo's. Per seed: small parents as in the demo, all rows of
`nnUNetv2_compare_stitched` with the same budget, Dice over position and over the number of active stitches (of the
first fold), on both parties' test cases. Writes `study.json`, `study.md`, `active_stitches.png`, `positions.png` and
per seed and direction the whole comparison with its page into FOLDER. What is finished is kept: call it again to go on.
"""

from __future__ import annotations

import argparse
import os
import shutil
import string
from dataclasses import replace

import numpy as np
import torch
from curves import curves, draw

from nnunetv2_stitch.baselines.compare import compare
from nnunetv2_stitch.baselines.rows import ROWS
from nnunetv2_stitch.demo.data import PARTIES, blocked_splits, write_party
from nnunetv2_stitch.demo.parents import plan_and_preprocess, train_parent
from nnunetv2_stitch.demo.settings import CONFIGURATION, FOLD, PLANS, DemoSettings, environment
from nnunetv2_stitch.environment import environment_set, usable_cores
from nnunetv2_stitch.evaluation.output import write_comparison
from nnunetv2_stitch.evaluation.tables import markdown_table
from nnunetv2_stitch.exchange.export import signature_of_fold
from nnunetv2_stitch.fileio import read_json, write_json
from nnunetv2_stitch.gating.signature import SIGNATURE_FILE
from nnunetv2_stitch.parties.model_folder import read_model_folder

FITS = {"direct": "direct", "double-batched": "stitched"}  # rows of the comparison
FOLDS_WITHOUT_BLOCKS = 5
BASELINE_EPOCHS, BASELINE_ITERATIONS = 5, 250  # of all that is trained beside the parents, who have had as many


def splits_of(names: list[str]) -> list[dict[str, list[str]]]:
    """Whole blocks of neighbouring cases are held out; without such blocks, groups of consecutive cases."""
    numbers = [int(n.rsplit("_", 1)[1]) for n in sorted(names)]
    if sum(b != a + 1 for a, b in zip(numbers, numbers[1:])) >= 2:
        return blocked_splits(names)
    groups = [list(g) for g in np.array_split(sorted(names), FOLDS_WITHOUT_BLOCKS)]
    return [{"train": [str(n) for i, g in enumerate(groups) if i != k for n in g], "val": [str(n) for n in groups[k]]}
            for k in range(len(groups))]


def prepare_parents(root: str, names: list[str], raw: str | None, settings: DemoSettings, folds: list[int],
                    device) -> None:
    for folder in ("raw", "preprocessed", "results"):
        os.makedirs(os.path.join(root, f"nnUNet_{folder}"), exist_ok=True)
    for side, name in zip(string.ascii_uppercase, names):
        target = os.path.join(root, "nnUNet_raw", name)
        if not os.path.isdir(target):
            if raw is None:
                write_party(side, os.path.dirname(target))
            else:
                shutil.copytree(os.path.join(raw, name), target)
        cases = [f[:-len(".nii.gz")] for f in sorted(os.listdir(os.path.join(target, "labelsTr")))]
        if not os.path.isdir(os.path.join(root, "nnUNet_preprocessed", name, f"{PLANS}_{CONFIGURATION}")):
            plan_and_preprocess(name, settings, splits_of(cases))
        model = os.path.join(root, "nnUNet_results", name, f"{settings.trainer}__{PLANS}__{CONFIGURATION}")
        for fold in folds:
            if not os.path.isfile(os.path.join(model, f"fold_{fold}", "checkpoint_final.pth")):
                train_parent(name, settings, device, settings.seed + ord(side), fold)
            sign(model, fold)


def sign(model: str, fold: int) -> None:
    """The signature that an export of the model would carry, for the gate."""
    party = read_model_folder(model)
    found = signature_of_fold(party, fold, party.checkpoint_path(fold), print)
    write_json(os.path.join(model, f"fold_{fold}", SIGNATURE_FILE), found.to_json())


def study_direction(root: str, host: str, partner: str, settings: DemoSettings, folds: list[int], rows,
                    device) -> dict:
    folder = os.path.join(root, f"comparison_{host}_hosts")
    done = os.path.join(folder, "study.json")
    wanted = {r.name for r in ROWS if rows is None or r.key in rows}
    if os.path.isfile(done) and wanted <= {*(before := read_json(done))["dice"], *before["skipped"]} \
            and folds == before.get("folds", [FOLD]):
        return before
    result = compare(host, partner, folder, rows=rows, device=device, resume=True, progress=False,
                     say=lambda line: print(f"--- {line}", flush=True), configuration=CONFIGURATION, folds=folds,
                     trainer_a=settings.trainer, trainer_b=settings.trainer, plans_a=PLANS, plans_b=PLANS,
                     epochs=settings.stitch_epochs, iterations=settings.stitch_iterations, seed=settings.seed,
                     baseline_epochs=BASELINE_EPOCHS, baseline_iterations=BASELINE_ITERATIONS)
    comparison = result.comparison
    write_comparison(comparison, folder)
    label = comparison.labels.main
    # By the row's own name: what else the tables say, such as alpha, differs between seeds.
    dice = {row.name: {party: comparison.summary(result.names[row.key], party, label).mean
                       for party in comparison.parties} for row in ROWS if row.key in result.names}
    found = {"host": host, "partner": partner, "seed": settings.seed, "folds": folds, "dice": dice,
             "details": result.details, "skipped": result.skipped, "curves": {}}
    for fit, row in FITS.items():
        if row in result.model_folders:
            found["curves"][fit] = curves(result.model_folders[row], os.path.join(root, "nnUNet_results"), folds[0],
                                          {p: os.path.join(root, "nnUNet_raw", p) for p in (host, partner)}, device)
    write_json(done, found)
    return found


def table(studies: list[dict]) -> list[dict]:
    """Dice per row and party, mean over seeds and each seed."""
    rows = []
    for model in dict.fromkeys(m for s in studies for m in s["dice"]):
        row = {"": model}
        for role in ("host", "partner"):
            values = [s["dice"][model][s[role]] for s in studies if model in s["dice"]]
            title = "own" if role == "host" else "partner's"
            row[f"{title}: mean"] = float(np.mean(values))
            row[f"{title}: each seed"] = ", ".join(f"{v:.3f}" for v in values)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("-seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("-folds", type=int, nargs="+", default=[FOLD])
    parser.add_argument("-datasets", nargs=2, metavar=("A", "B"))
    parser.add_argument("-raw", help="nnU-Net raw folder that holds -datasets")
    parser.add_argument("-rows", nargs="+", help="as nnUNetv2_compare_stitched takes them; default all")
    parser.add_argument("-both", action="store_true", help="then with B as host, too")
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
    studies: dict[str, list[dict]] = {}
    for seed in args.seeds:
        root = os.path.join(folder, f"seed_{seed}")
        with environment_set(environment(root)):
            seeded = replace(settings, seed=seed)
            prepare_parents(root, names, args.raw, seeded, args.folds, device)
            for host, partner in (names, names[::-1])[:2 if args.both else 1]:
                found = study_direction(root, host, partner, seeded, args.folds, args.rows, device)
                studies.setdefault(host, []).append(found)
    text = []
    for host, found in studies.items():
        suffix = "" if host == names[0] else "_B_hosts"
        seeds = ", ".join(str(s["seed"]) for s in found)
        folds = ", ".join(map(str, args.folds))
        text += [f"## {host} hosts, partner {found[0]['partner']}, seeds {seeds}, folds {folds}", "",
                 markdown_table(table(found)), ""]
        for fit in FITS:
            rho = [s["curves"][fit]["validation_spearman_of_r2"] for s in found if fit in s["curves"]]
            text += [f"Spearman of R2 with Dice over positions, {fit}: "
                     f"{', '.join('undefined' if r is None else f'{r:.2f}' for r in rho)}", ""] if rho else []
        if any(s["curves"] for s in found):
            draw(found, os.path.join(folder, f"active_stitches{suffix}.png"), "active")
            draw(found, os.path.join(folder, f"positions{suffix}.png"), "positions")
    write_json(os.path.join(folder, "study.json"), studies)
    with open(os.path.join(folder, "study.md"), "w") as file:
        file.write("\n".join(text))
    print("\n".join(text))


if __name__ == "__main__":
    main()
