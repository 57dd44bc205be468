"""The test cases: predictions of the four models, nnU-Net's evaluation of them, the rows of the table."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nnunetv2_stitch.demo.data import FILE_ENDING, LABELS, PARTIES

# model -> how the stitched model answers as it; "host" and "partner" are the untouched parents
MODELS = {"A alone": "host", "B alone": "partner", "plain ensemble": "ensemble", "stitched": "stitched"}
FOREGROUND = {name: value for name, value in LABELS.items() if value}


def party_title(key: str) -> str:
    return f"{key}: {PARTIES[key].dataset.split('_', 1)[1]}"


def prediction_folder(root: str, model: str, key: str) -> str:
    return os.path.join(root, model.replace(" ", "_"), PARTIES[key].dataset)


def predict_all(model_folder: str, raw: str, root: str, device, folds: Sequence[int | str],
                say: Callable[[str], None] = lambda text: None) -> None:
    """Write the four models' segmentations of both parties' test cases below `root`.

    Args:
        raw: nnU-Net's folder of raw datasets.
        say: is told each step in a line.
    """
    from nnunetv2_stitch.inference.predictor import StitchedPredictor

    predictor = StitchedPredictor(device=device, use_mirroring=True, perform_everything_on_device=device.type == "cuda",
                                  allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(model_folder, use_folds=list(folds), mode="stitched")
    for model, mode in MODELS.items():
        predictor.set_mode(mode)
        for key, party in PARTIES.items():
            predictor.predict_from_files_sequential(os.path.join(raw, party.dataset, "imagesTs"),
                                                    prediction_folder(root, model, key))
        say(f"predicted the test cases of both parties with {model}")


def evaluate_all(raw: str, root: str) -> list[dict[str, Any]]:
    """nnU-Net's `summary.json` beside each model's predictions; one row per party and model.

    Rows hold `party`, `model`, `dice` (nnU-Net's foreground mean: over cases, then over labels), the mean Dice of
    each label under its name, and `cases`: case name -> mean over its labels.
    """
    from nnunetv2.configuration import default_num_processes
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
    from nnunetv2.imageio.nibabel_reader_writer import NibabelIO

    rows = []
    for key, party in PARTIES.items():
        for model in MODELS:
            folder = prediction_folder(root, model, key)
            summary = compute_metrics_on_folder(
                os.path.join(raw, party.dataset, "labelsTs"), folder, os.path.join(folder, "summary.json"),
                NibabelIO(), FILE_ENDING, list(FOREGROUND.values()), num_processes=default_num_processes, chill=False)
            rows.append({
                "party": party_title(key), "model": model, "dice": float(summary["foreground_mean"]["Dice"]),
                **{name: float(summary["mean"][value]["Dice"]) for name, value in FOREGROUND.items()},
                "cases": _by_case(summary),
            })
    return rows


def _by_case(summary: dict) -> dict[str, float]:
    cases = {}
    for case in summary["metric_per_case"]:
        values = [case["metrics"][value]["Dice"] for value in FOREGROUND.values()]
        known = [v for v in values if np.isfinite(v)]
        name = os.path.basename(case["reference_file"])[:-len(FILE_ENDING)]
        cases[name] = float(np.mean(known)) if known else float("nan")
    return cases


def table_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For printing: no single cases, and how many there were."""
    return [{"test cases of": row["party"], "model": row["model"], "Dice": row["dice"],
             **{name: row[name] for name in FOREGROUND}, "cases": len(row["cases"])} for row in rows]


def reading(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The stitched model against the others in words, a sentence per party, whichever way it turned out."""
    lines = []
    for party in dict.fromkeys(row["party"] for row in rows):
        dice = {row["model"]: row["dice"] for row in rows if row["party"] == party}
        differences = [f"{dice['stitched'] - value:+.3f} against {model}" for model, value in dice.items()
                       if model != "stitched"]
        lines.append(f"{party}: stitched {', '.join(differences)}.")
    return lines


def overlay_panels(raw: str, root: str, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Two test cases of each party for `figures.overlay_grid`: those at one and two thirds of the list of
    names, a rule that looks at no score."""
    import nibabel

    def read(*parts: str) -> np.ndarray:
        # nibabel gives (x, y, 1); upright, the anterior side up
        return np.rot90(np.asarray(nibabel.load(os.path.join(*parts)).dataobj)[..., 0])

    panels = []
    for key, party in PARTIES.items():
        dice = {row["model"]: row["cases"] for row in rows if row["party"] == party_title(key)}
        names = sorted(next(iter(dice.values())))
        for name in dict.fromkeys([names[len(names) // 3], names[2 * len(names) // 3]]):
            file = name + FILE_ENDING
            panels.append({
                "title": f"{key}: {name}",
                "image": read(raw, party.dataset, "imagesTs", f"{name}_0000{FILE_ENDING}"),
                "masks": {"reference": read(raw, party.dataset, "labelsTs", file),
                          **{model: read(prediction_folder(root, model, key), file) for model in MODELS}},
                "dice": {model: dice[model][name] for model in MODELS},
            })
    return panels
