"""The demo over several seeds, with closed-form beside double-batched stitches, and Dice over active stitches.

    python benchmarks/demo_study.py FOLDER [-seeds 1 2 3]

Runs `nnUNetv2_stitch_demo`'s story once per seed in FOLDER/seed_N (finished ones are kept), fits direct stitches to
the same parents, and scores both parties' test cases. Writes `demo_study.json`, `demo_study.md` and
`active_stitches.png` into FOLDER.
"""

from __future__ import annotations

import argparse
import os

import numpy as np
import torch
from matplotlib.figure import Figure

from nnunetv2_stitch.demo.data import PARTIES
from nnunetv2_stitch.demo.settings import CONFIGURATION, FOLD, DemoSettings, environment
from nnunetv2_stitch.demo.story import run_demo
from nnunetv2_stitch.environment import environment_set
from nnunetv2_stitch.evaluation.tables import markdown_table
from nnunetv2_stitch.fileio import read_json, write_json
from nnunetv2_stitch.pipeline import train_stitch
from nnunetv2_stitch.selection.deploy import load_supernet
from nnunetv2_stitch.selection.scoring import SettingScorer
from nnunetv2_stitch.stitching.setting import Setting

DIRECT_PLANS = "nnUNetStitchDirectPlans"
FITS = {"direct": ("nnUNetTrainerStitchDirect", DIRECT_PLANS),
        "double-batched": ("nnUNetTrainerStitch", "nnUNetStitchPlans")}
COUNTS = (0, 1, 2, 4, 8, 16, 32, 62)


def test_cases(raw: str, plans_manager, dataset_json: dict) -> dict[str, list]:
    """Preprocessed test images with their labels on the same grid, by party."""
    configuration = plans_manager.get_configuration(CONFIGURATION)
    preprocessor = configuration.preprocessor_class(verbose=False)
    cases: dict[str, list] = {}
    for key, party in PARTIES.items():
        folder = os.path.join(raw, party.dataset)
        for name in sorted(os.listdir(os.path.join(folder, "labelsTs"))):
            image = os.path.join(folder, "imagesTs", name.replace(".nii.gz", "_0000.nii.gz"))
            data, labels, _ = preprocessor.run_case([image], os.path.join(folder, "labelsTs", name), plans_manager,
                                                    configuration, dataset_json)
            cases.setdefault(key, []).append((data, labels))
    return cases


def evenly(positions: list[int], count: int) -> list[int]:
    """`count` positions spread over the network, the last one left out where it can be."""
    if count >= len(positions):
        return positions
    return [positions[int((i + 0.5) * len(positions) / count)] for i in range(count)]


def study_seed(folder: str, seed: int, settings: DemoSettings, device: str) -> dict:
    done = os.path.join(folder, "study.json")
    if os.path.isfile(done):
        return read_json(done)
    demo = run_demo(folder, device, resume=os.path.isdir(folder), seed=seed, settings=settings, say=print)
    with environment_set(environment(folder)):
        train_stitch(PARTIES["A"].dataset, PARTIES["B"].dataset, configuration=CONFIGURATION, folds=[FOLD],
                     fit="direct", iterations=settings.stitch_iterations, plans_name=DIRECT_PLANS, device=device,
                     seed=seed, continue_training=True, progress=False)
        rows, curves = [], {}
        for row in demo.rows:
            if row["model"] != "stitched":
                rows.append({"seed": seed, "model": row["model"], "party": row["party"][0], "dice": row["dice"]})
        for fit, (trainer, plans_name) in FITS.items():
            result = score_fit(folder, trainer, plans_name, device)
            rows += [{"seed": seed, "model": fit, "party": key, "dice": result["chosen"][key]} for key in PARTIES]
            curves[fit] = {k: result[k] for k in ("position", "active", "by_position")}
        final = {"seed": seed, "rows": rows, "curves": curves}
        write_json(done, final)
    return final


def score_fit(folder: str, trainer: str, plans_name: str, device: str) -> dict:
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
    results = os.environ["nnUNet_results"]
    model = os.path.join(results, PARTIES["A"].dataset, f"{trainer}__{plans_name}__{CONFIGURATION}")
    plans, dataset_json = (read_json(os.path.join(model, f)) for f in ("plans.json", "dataset.json"))
    manager = PlansManager(plans)
    network = load_supernet(plans, CONFIGURATION, dataset_json, FOLD, model, results)
    configuration = manager.get_configuration(CONFIGURATION)
    scorer = SettingScorer(network, manager, configuration, dataset_json, torch.device(device))
    cases = test_cases(os.environ["nnUNet_raw"], manager, dataset_json)
    position = read_json(os.path.join(model, "stitch_selection.json"))["positions"][str(FOLD)]
    counts = [c for c in COUNTS if c < len(network.positions)] + [len(network.positions)]
    return {
        "position": position,
        "chosen": {k: scorer.score(Setting.average_at(position), c) for k, c in cases.items()},
        "active": {k: [[n, scorer.score(Setting.average_at(*evenly(network.positions, n)), c)] for n in counts]
                   for k, c in cases.items()},
        "by_position": {k: [scorer.score(Setting.average_at(p), c) for p in network.positions]
                        for k, c in cases.items()},
    }


def draw(studies: list[dict], path: str) -> None:
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    for axes, (key, party) in zip(figure.subplots(1, 2, sharey=True), PARTIES.items()):
        for fit, colour in (("direct", "#0072B2"), ("double-batched", "#D55E00")):
            lines = [s["curves"][fit]["active"][key] for s in studies]
            counts = [max(0.5, 2 * n) for n, _ in lines[0]]
            values = np.array([[dice for _, dice in line] for line in lines])
            for line in values:
                axes.plot(counts, line, color=colour, alpha=0.3, linewidth=1)
            axes.plot(counts, values.mean(0), color=colour, marker="o", label=fit)
        axes.set_xscale("log", base=2)
        axes.set_xticks(counts, ["0"] + [str(int(c)) for c in counts[1:]])
        axes.set_title(f"test cases of {key}: {party.dataset.split('_', 1)[1]}")
        axes.set_xlabel("active stitches (both directions, averaged)")
    figure.axes[0].set_ylabel("mean Dice, both heads")
    figure.axes[0].legend(frameon=False)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("-seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("-device", default="cpu", choices=("cpu", "cuda"))
    args = parser.parse_args()
    folder = os.path.abspath(args.folder)
    studies = [study_seed(os.path.join(folder, f"seed_{s}"), s, DemoSettings(), args.device) for s in args.seeds]
    models = ["A alone", "B alone", "plain ensemble", "direct", "double-batched"]
    table = []
    for model in models:
        row = {"model": model}
        for key in PARTIES:
            values = [r["dice"] for s in studies for r in s["rows"] if r["model"] == model and r["party"] == key]
            row |= {f"{key}, seed {s['seed']}": v for s, v in zip(studies, values)}
            row[f"{key}, mean"] = float(np.mean(values))
        table.append(row)
    write_json(os.path.join(folder, "demo_study.json"), studies)
    with open(os.path.join(folder, "demo_study.md"), "w") as f:
        f.write(markdown_table(table))
    draw(studies, os.path.join(folder, "active_stitches.png"))
    print(markdown_table(table))


if __name__ == "__main__":
    main()
