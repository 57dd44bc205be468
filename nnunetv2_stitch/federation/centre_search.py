"""What the centre does in a round: search coefficients on its own data, and keep the best model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from nnunetv2_stitch.federation.buffer import PartyModel, fedavg_weights
from nnunetv2_stitch.federation.sharing import set_shared, shared_arrays
from nnunetv2_stitch.merging.atlas import Atlas
from nnunetv2_stitch.merging.baselines import mixture
from nnunetv2_stitch.merging.guided import FEDAVG, search_from_fedavg
from nnunetv2_stitch.merging.objective import CentreObjective
from nnunetv2_stitch.randomness import seed_everything
from nnunetv2_stitch.search.coefficients import SearchOptions
from nnunetv2_stitch.training.centre import Centre

PREVIOUS = "previous global model"


@dataclass(frozen=True)
class SearchSettings:
    """As the flags of nnUNetv2_merge_party. `search`: `gradient` or `cmaes`."""

    granularity: str = "stage"
    search: str = "gradient"
    steps: int = 100
    rate: float = 0.05
    surrogate: str = "auto"
    seed: int = 12345


@dataclass(frozen=True)
class Merged:
    """The new global model. `record`: `chosen`, `scores`, `coefficients` and how they were found; JSON values."""

    weights: dict[str, np.ndarray] = field(repr=False)
    record: dict[str, Any]


class CentreSearch:
    """The search on the data of an opened `Centre`, whose network holds the new global model after each call.

    Coefficients count from the previous global model (arXiv 2503.20138: a model atlas, coefficients of any sign,
    searched on the centre's data). Ours: groups, optimiser and start as in `merge_guided`; written is the guided merge
    only where it beats FedAvg weighting, each model alone and the previous global model on the centre's validation
    cases, else the best of these.
    """

    def __init__(self, centre: Centre, settings: SearchSettings = SearchSettings()):
        self.centre, self.settings = centre, settings

    def __call__(self, base: Mapping[str, np.ndarray], models: Sequence[PartyModel], number: int) -> Merged:
        """Merge at least two models.

        Args:
            base: the previous global model; names and shapes as of the models and of the centre's network.
            number: of the round; ages count from it, and seeds differ by it.

        Raises:
            StitchError: tensors that do not fit the centre's network.
        """
        settings, network = self.settings, self.centre.network
        seed_everything(settings.seed + number)
        names = [n for n, _ in network.named_parameters()]

        def parameters(weights: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
            return {n: torch.from_numpy(np.array(weights[n], np.float32)) for n in names}

        set_shared(network, base, PREVIOUS)
        labels, start = [m.party for m in models], fedavg_weights(models, number)
        atlas = Atlas([parameters(m.weights) for m in models], parameters(base), settings.granularity, labels)
        objective = CentreObjective(self.centre, atlas, settings.surrogate)

        def score_alone(name: str, weights: Mapping[str, np.ndarray]) -> float:
            set_shared(network, weights, name)
            return objective.score_present()

        alone = {PREVIOUS: partial(score_alone, PREVIOUS, base),
                 **{f"{m.party} alone": partial(score_alone, m.party, m.weights) for m in models}}
        scores = {name: score() for name, score in alone.items()}
        scores[FEDAVG] = objective.score_weights(mixture(atlas, start))
        options = SearchOptions(settings.steps, settings.rate, seed=settings.seed + number)
        found, chosen, _ = search_from_fedavg(objective, start, scores, alone, settings.search, options)
        return Merged(shared_arrays(network), {
            "chosen": chosen, "scored_by": objective.scored_by, "scores": scores, "groups": atlas.groups,
            "start": dict(zip(labels, start)),
            "coefficients": {label: row.tolist() for label, row in zip(labels, found.coefficients)},
            "best_step": found.step, "history": found.history,
        })
