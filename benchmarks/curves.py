"""Dice over the position of one pair of stitches and over the number of active pairs, and a figure of studies."""

from __future__ import annotations

import os

import numpy as np
import torch
from labelled_cases import labelled_test_cases
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_stitch.figures.style import BLUE, VERMILLION, new_figure, own_style, tidy, write
from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.selection.rules import label_free_agreement
from nnunetv2_stitch.selection.scoring import SettingScorer
from nnunetv2_stitch.selection.sweep import Sweep
from nnunetv2_stitch.stitching.setting import Setting

CONFIGURATION = "2d"
COLOURS = {"direct": BLUE, "double-batched": VERMILLION}
COUNTS = (0, 1, 2, 4, 8, 16, 32)


def curves(model: str, results: str, fold: int, raw: dict[str, str], device: torch.device) -> dict:
    """Dice over the number of active stitches and over position of a stitched model, on the parties' test cases.
    `results`: where its parents are found. `raw`: raw dataset folder by party."""
    plans, dataset_json = (read_json(os.path.join(model, f)) for f in ("plans.json", "dataset.json"))
    scorer = SettingScorer.of_fold(plans, CONFIGURATION, dataset_json, fold, model, results, device)
    positions = scorer.positions
    counts = [c for c in COUNTS if c < len(positions)] + [len(positions)]
    active, by_position = {}, {}
    for party, folder in raw.items():
        cases = labelled_test_cases(folder, PlansManager(plans), CONFIGURATION, dataset_json)
        spread = {n: [positions[int((i + 0.5) * len(positions) / n)] for i in range(n)] for n in counts if n}
        active[party] = [[2 * n, scorer.score(Setting.average_at(*spread.get(n, [])), cases)] for n in counts]
        sweep = scorer.summarise(fold, [scorer.score_case(*c) for c in cases], [""] * len(positions))
        by_position[party] = {"ensemble": sweep.ensemble, "host_head": sweep.host_head, "baselines": sweep.baselines}
    own = Sweep.from_json(read_json(os.path.join(model, f"fold_{fold}", "sweep.json")))
    return {"positions": positions, "active": active, "by_position": by_position,
            "validation_spearman_of_r2": label_free_agreement(own)}


@own_style
def draw(studies: list[dict], path: str, kind: str) -> None:
    """Dice over the number of active stitches (`active`) or over position (`positions`), faint lines are seeds."""
    figure = new_figure(10, 4)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, role in zip(panels, ("host", "partner")):
        for fit, colour in COLOURS.items():
            found = [(s["curves"][fit], s[role]) for s in studies if fit in s["curves"]]
            if not found:
                continue
            if kind == "active":
                x = [max(1, n) for n, _ in found[0][0]["active"][found[0][1]]]
                lines = np.array([[dice for _, dice in c["active"][party]] for c, party in found])
            else:
                x = found[0][0]["positions"]
                lines = np.array([c["by_position"][party]["ensemble"] for c, party in found])
            for line in lines:
                axes.plot(x, line, color=colour, alpha=0.3, linewidth=0.8)
            axes.plot(x, lines.mean(0), color=colour, linewidth=2, marker="o" if kind == "active" else None,
                      markersize=4, label=fit)
        if kind == "active":
            axes.set_xscale("log", base=2)
            axes.set_xticks(x, ["0", *(str(n) for n in x[1:])])
            axes.set_xlabel("active stitches, averaged, both directions")
        else:
            axes.set_xlabel("position of one averaged pair along the network")
            for key, style in (("host", "-"), ("partner", "-."), ("ensemble", "--")):
                levels = [c["by_position"][s[role]]["baselines"][key] for s in studies for c in s["curves"].values()]
                name = {"host": "host alone", "partner": "partner alone", "ensemble": "plain ensemble"}[key]
                axes.axhline(float(np.mean(levels)), color="0.4", linestyle=style, linewidth=1, label=name)
        tidy(axes)
        axes.set_title("host's test cases" if role == "host" else "partner's test cases", fontsize=10)
    panels[0].set_ylabel("mean Dice, both heads, preprocessed grid")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    write(figure, path)
