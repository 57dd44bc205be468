"""The test cases: five models on both parties', as rows, in words, and as the figure."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nnunetv2_stitch.demo.commands import EVALUATION
from nnunetv2_stitch.demo.data import PARTIES

A_ALONE, B_ALONE, PLAIN, STITCHED, RECOMMENDED = "A alone", "B alone", "plain ensemble", "stitched", "recommended"
MODELS = (A_ALONE, B_ALONE, PLAIN, STITCHED, RECOMMENDED)
WHOSE = {"A": "A's own cases", "B": "the partner's cases"}


def argument(model: str) -> str:
    """A model's name as one word, for a command line."""
    return model.replace(" ", "_")


def models_of(host: str, partner: str, stitched: str, recommended: str) -> dict[str, str]:
    """What is compared, as nnUNetv2_evaluate_stitched takes it: name -> model folder.

    Args:
        host, partner: of the untouched models; each answers in its own stock pipeline.
        stitched: of the stitched ensemble, which also answers as the plain one.
        recommended: of the gated ensemble, or of the adapted partner.
    """
    return dict(zip(map(argument, MODELS), (host, partner, f"{stitched}@ensemble", stitched, recommended)))


def evaluate_models(models: Mapping[str, str], folder: str, device: Any, resume: bool,
                    say: Callable[[str], None] = lambda text: None) -> list[dict[str, Any]]:
    """What nnUNetv2_evaluate_stitched does: predictions of all models, measures, figures, report.html.

    Args:
        models: see `models_of`.
        folder: the demo's.
        resume: keep what was predicted before.

    Returns:
        One row per party and model: `party`, `model`, `dice` (mean over the labels, then over cases) and `cases`:
        case name -> mean over its labels.
    """
    from nnunetv2_stitch.evaluation.entries import ModelEntry, TestSet
    from nnunetv2_stitch.evaluation.evaluate import evaluate
    from nnunetv2_stitch.evaluation.output import write_comparison
    output = os.path.join(folder, EVALUATION)
    comparison = evaluate([ModelEntry.parse(f"{name}={path}") for name, path in models.items()],
                          [TestSet(key, os.path.join(folder, "nnUNet_raw", p.dataset)) for key, p in PARTIES.items()],
                          output=output, device=device, continue_prediction=resume, say=say)
    write_comparison(comparison, output, say=say)
    main = comparison.labels.main
    return [{"party": key, "model": model, "dice": float(comparison.summary(argument(model), key, main).mean),
             "cases": {s.case: s.dice for s in comparison.scores
                       if (s.model, s.party, s.label) == (argument(model), key, main)}}
            for key in PARTIES for model in MODELS]


def dice_of(rows: Sequence[Mapping[str, Any]], party: str) -> dict[str, float]:
    """Model -> mean Dice on a party's test cases."""
    return {row["model"]: row["dice"] for row in rows if row["party"] == party}


def table_rows(rows: Sequence[Mapping[str, Any]], way: str) -> list[dict[str, Any]]:
    """For printing: a row per model, both parties side by side and never averaged; `way` says what is recommended."""
    by_party = {WHOSE[key]: dice_of(rows, key) for key in PARTIES}
    return [{"mean Dice": model, **{whose: dice[model] for whose, dice in by_party.items()},
             "": f"<- {way}" if model == RECOMMENDED else ""} for model in MODELS]


def reading(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The recommended model against A's own and the plain ensemble, a sentence per party, however it turned out."""
    lines = []
    for key in PARTIES:
        dice = dice_of(rows, key)
        against = [f"{dice[RECOMMENDED] - dice[model]:+.3f} against {model}" for model in (A_ALONE, PLAIN, STITCHED)]
        lines.append(f"On {WHOSE[key]}, recommended: {', '.join(against)}.")
    return lines


def figure_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For `figures.dice_by_party`."""
    return [{**row, "party": WHOSE[row["party"]], "cases": list(row["cases"].values())} for row in rows]
