"""Settings of one trained supernet that a comparison looks at: the rules' choices, many stitches, weighted outputs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

import numpy as np
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.selection.dice import NothingToScore, foreground_dice
from nnunetv2_stitch.selection.rules import choose, label_free_choice, position_at_progress
from nnunetv2_stitch.selection.scoring import SettingScorer
from nnunetv2_stitch.selection.sweep import Sweep
from nnunetv2_stitch.stitching.setting import Setting

# The paper finds good positions at 60 to 70 % of the network.
RULE_3_PROGRESS = 0.65
SHARES = tuple(round(0.05 * i, 2) for i in range(21))


def rule_settings(sweeps: Sequence[Sweep], rule: str, progress: Sequence[float], output: str = "ensemble",
                  combine: str = "probabilities") -> dict[int | str, Setting]:
    """Both parents' maps averaged at the position that `rule` chooses, per fold: `1`, `2`, `3` (at a progress of 0.65
    in the host), `loo` or `r2` (highest R^2, without labels).

    Args:
        sweeps: one per fold.
        progress: of every position, in the host.
        output, combine: see `Setting`.
    """
    if rule == "r2":
        positions = label_free_choice(sweeps)
    else:
        trained = sweeps[0].positions
        fixed = trained[position_at_progress([progress[p] for p in trained], RULE_3_PROGRESS)]
        positions = choose(sweeps, rule, fixed if rule == "3" else None)
    return {f: Setting.average_at(p, output=output, combine=combine) for f, p in positions.items()}


def weighted_shares(model_folder: str, configuration: str, folds: Sequence[int | str], results: str,
                    preprocessed: str, device: torch.device) -> tuple[float, dict[float, float]]:
    """The host's share in a plain ensemble that has the best Dice on the host's validation cases, mean over folds.

    Args:
        model_folder: of the stitched model whose parents answer.
        results, preprocessed: nnU-Net's folders.

    Returns:
        The share (of equally good ones the nearest to one half) and the Dice of every share tried.

    Raises:
        NothingToScore: no fold's validation cases hold any foreground label.
    """
    dice = {share: [] for share in SHARES}
    for title, counts in count_shares(model_folder, configuration, folds, results, preprocessed, device):
        with suppress(NothingToScore):  # such a fold takes no part
            for share, found in zip(SHARES, counts):
                dice[share].append(foreground_dice(found, title))
    if not any(dice.values()):
        raise NothingToScore(f"the validation cases of fold {', '.join(map(str, folds))}")
    means = {share: float(np.mean(values)) for share, values in dice.items()}
    return best_share(means), means


def count_shares(model_folder: str, configuration: str, folds: Sequence[int | str], results: str, preprocessed: str,
                 device: torch.device) -> Iterator[tuple[str, list[list[np.ndarray]]]]:
    """What each fold's validation cases are called, and their counts by share of the host and case.

    Args:
        model_folder, results, preprocessed: see `weighted_shares`.
    """
    plans, dataset_json = (read_json(os.path.join(model_folder, f)) for f in ("plans.json", "dataset.json"))
    manager = PlansManager(plans)
    for fold in folds:
        scorer = SettingScorer.of_fold(plans, configuration, dataset_json, fold, model_folder, results, device)
        cases = scorer.validation_cases(os.path.join(preprocessed, manager.dataset_name), fold)
        yield cases.title, scorer.count_shares(SHARES, cases)


def best_share(means: Mapping[float, float]) -> float:
    """The share of the highest Dice; of equally good ones the nearest to one half."""
    return max(means, key=lambda share: (round(means[share], 6), -abs(share - 0.5)))
