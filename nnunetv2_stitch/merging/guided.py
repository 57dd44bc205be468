"""The search, and what is kept of it: the guided merge only where it is better than doing without."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.merging.baselines import mixture
from nnunetv2_stitch.merging.groups import GRANULARITIES
from nnunetv2_stitch.merging.objective import SURROGATES, CentreObjective
from nnunetv2_stitch.search.coefficients import SEARCHES, SearchOptions, SearchResult, require_cma, search

GUIDED, FEDAVG = "guided", "FedAvg weighting"


def search_from_fedavg(objective: CentreObjective, fedavg: Sequence[float], scores: dict[str, float],
                       alone: Mapping[str, Callable[[], object]], method: str, options: SearchOptions,
                       say: Callable[[str], None] = lambda line: None) -> tuple[SearchResult, str, str]:
    """Search coefficients from FedAvg's weights on, and leave the best model in the objective's network.

    Args:
        fedavg: FedAvg's weight of each member of the objective's atlas; they sum to one.
        scores: of FedAvg weighting and of every model in `alone`; receives that of the guided merge.
        alone: puts a model, unmixed, into the objective's network; by its name.

    Returns:
        What was found, the name of what is in the network now, and the best of the models alone.

    Raises:
        StitchError: no score is a number.
    """
    if not any(map(math.isfinite, scores.values())):
        raise StitchError("no model gives finite values on the centre's validation cases, so nothing can be chosen; "
                          "look at the models with nnUNetv2_predict")
    atlas = objective.atlas
    found = search(objective, atlas.coefficients(fedavg), options, method, say, scores[FEDAVG])
    scores[GUIDED] = found.score
    best = max(alone, key=lambda name: scores[name])
    chosen = choose(scores, best)
    if chosen == GUIDED:
        objective.score(found.coefficients)
    elif chosen == FEDAVG:
        objective.score_weights(mixture(atlas, fedavg))
    else:
        alone[best]()
    return found, chosen, best


def require_searchable(asked) -> None:
    """Raises StitchError if there is no search as `asked`, a `MergeRequest` or a centre's settings."""
    for what, allowed in (("granularity", GRANULARITIES), ("search", SEARCHES), ("surrogate", SURROGATES)):
        if getattr(asked, what) not in allowed:
            raise StitchError(f"{what} {getattr(asked, what)!r} is not one of {', '.join(allowed)}")
    if asked.steps < 1 or not asked.rate > 0:
        raise StitchError("steps must be at least 1, and the rate above 0")
    if asked.search == "cmaes":
        require_cma()


def choose(scores: dict[str, float], best_alone: str) -> str:
    """The guided merge only where it beats both the start of its search and every model alone; else the better of
    those."""
    other = FEDAVG if scores[FEDAVG] >= scores[best_alone] else best_alone
    return GUIDED if scores[GUIDED] > scores[other] else other
