"""Which position to deploy: the paper's rules 1 to 3 and two of our own, as pure functions on sweeps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata, spearmanr

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.selection.dice import NothingToScore
from nnunetv2_stitch.selection.sweep import Sweep
from nnunetv2_stitch.stitching.setting import in_ranges

RULES = ("1", "2", "3", "loo")
RETAIN = "retain"  # by scores of single cases: see case_scores
GUIDED = "guided"  # chooses no position but mixing weights at all of them: see the package guiding


def choose(sweeps: Sequence[Sweep], rule: str, position: int | None = None) -> dict[int | str, int]:
    """The position of each fold.

    Rule 1 takes each fold's best, rule 2 the lowest mean rank over folds, rule 3 the given position, `loo` the lowest
    mean rank over the *other* folds, because rule 2 judges a fold by its own validation cases. The paper ranks by
    these rules; ours: the ranked metric is the mean foreground Dice of both heads, equal values share their mean
    rank, and of equally good positions the earliest wins. Folds whose validation cases hold no foreground take no part,
    and by rule 1 such a fold gets what rule 2 takes.

    Raises:
        NothingToScore: no fold's cases hold any foreground.
        StitchError: no position given for rule 3, `loo` with one fold, sweeps over different positions.
    """
    positions = common_positions(sweeps)
    if rule == "3":
        if position not in positions:
            raise StitchError(f"rule 3 needs -position with one of the trained positions "
                              f"{in_ranges(positions)}, not {position}")
        return {s.fold: position for s in sweeps}
    if rule not in RULES:
        raise StitchError(f"rule {rule!r} is not one of {', '.join(RULES)}")
    scored = with_scores(sweeps)
    ranks = {s.fold: r for s, r in zip(scored, fold_ranks([s.ensemble for s in scored]))}

    def best(folds: Sequence[int | str]) -> int:
        return positions[int(np.argmin(np.mean([ranks[f] for f in folds], 0)))]

    if rule == "1":
        return {s.fold: best([s.fold] if s.fold in ranks else [*ranks]) for s in sweeps}
    if rule == "2":
        return {s.fold: best([*ranks]) for s in sweeps}
    if len(ranks) < 2:
        raise StitchError("-rule loo needs at least two folds with foreground in their validation cases; use -rule 2")
    return {s.fold: best([f for f in ranks if f != s.fold]) for s in sweeps}


def with_scores(sweeps: Sequence[Sweep]) -> list[Sweep]:
    """Those that something can be chosen by.

    Raises:
        NothingToScore: none is.
    """
    scored = [s for s in sweeps if s.scorable]
    if not scored:
        folds = ", ".join(str(s.fold) for s in sweeps)
        raise NothingToScore(f"the validation cases of fold {folds}", "choose a position yourself with -rule 3")
    return scored


def choose_each(sweeps: Sequence[Sweep], rule: str, positions: Sequence[int] = (),
                ) -> dict[int | str, tuple[int, ...]]:
    """One position per partner and fold, each partner's by `choose` among the positions with it alone. With several
    partners that is a choice of ours: trying every combination would cost the product of their positions.

    Raises:
        StitchError: as `choose`; or `positions` of rule 3 that are not one for each partner.
    """
    parties = sorted(set(sweeps[0].parties)) if sweeps else []
    chosen: dict[int | str, tuple[int, ...]] = {s.fold: () for s in sweeps}
    for party in parties:
        own = [s.only(party) for s in sweeps]
        given = [p for p in positions if p in own[0].positions]
        if rule == "3" and len(given) != 1:
            raise StitchError(f"rule 3 needs -position with one of the positions of {party}, "
                              f"{in_ranges(own[0].positions)}; found {given or 'none'}")
        for fold, position in choose(own, rule, given[0] if given else None).items():
            chosen[fold] += (position,)
    return chosen


def common_positions(sweeps: Sequence[Sweep]) -> list[int]:
    if not sweeps:
        raise StitchError("there is no sweep to choose from; train at least one fold first")
    if any(s.positions != sweeps[0].positions for s in sweeps):
        raise StitchError("the folds' sweeps cover different positions; train them with the same -positions")
    return sweeps[0].positions


def fold_ranks(scores: Sequence[Sequence[float]]) -> np.ndarray:
    """Ranks `(folds, positions)`, 1 is best; equal scores share their mean rank."""
    return np.stack([rankdata(-np.round(s, 6)) for s in scores])


def position_at_progress(progress: Sequence[float], wanted: float) -> int:
    """The position whose progress in the host is nearest to `wanted` in [0, 1]."""
    return int(np.argmin(np.abs(np.asarray(progress) - wanted)))


def label_free_scores(sweep: Sweep) -> list[float]:
    """Mean R^2 of both directions per position: how well the parents' features translate, without labels. Ours;
    whether it predicts a good position is an open question, see `label_free_agreement`."""
    return [float(np.mean(r)) for r in sweep.r2]


def label_free_choice(sweeps: Sequence[Sweep]) -> dict[int | str, int]:
    """The position of the lowest mean rank over folds by `label_free_scores`, the same for every fold.

    Raises:
        StitchError: no scores, or some that are no numbers.
    """
    positions = common_positions(sweeps)
    scores = [label_free_scores(s) for s in sweeps]
    if not all(len(s) == len(positions) and np.isfinite(s).all() for s in scores):
        raise StitchError("the folds' sweeps hold no R^2 at some position, so none can be chosen without labels; train "
                          "the stitches again")
    best = positions[int(np.argmin(fold_ranks(scores).mean(0)))]
    return {s.fold: best for s in sweeps}


def label_free_agreement(sweep: Sweep) -> float | None:
    """Spearman correlation between the label-free score and the ensemble's Dice over positions; None if undefined."""
    scores = label_free_scores(sweep)
    if not sweep.scorable or len(scores) < 3 or len(set(scores)) < 2 or len(set(sweep.ensemble)) < 2:
        return None
    return float(spearmanr(scores, sweep.ensemble).statistic)
