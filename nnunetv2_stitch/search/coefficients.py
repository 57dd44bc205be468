"""The search for coefficients: Adam on the coefficients alone, or CMA-ES, both stopped by a score."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch

from nnunetv2_stitch.errors import StitchError

SEARCHES = ("gradient", "cmaes")


class Objective(Protocol):
    """What is searched. `c` is `(N, G)`, float64, on the CPU."""

    def loss(self, c: torch.Tensor) -> float:
        """The same function at every call, so that candidates can be compared."""

    def loss_and_gradient(self, c: torch.Tensor) -> tuple[float, torch.Tensor]:
        """May be of a new batch at every call."""

    def score(self, c: torch.Tensor) -> float:
        """What decides, on cases that the loss does not see; higher is better."""


@dataclass(frozen=True)
class SearchOptions:
    """`steps`: of Adam, or generations of CMA-ES. `rate`: Adam's learning rate, which falls linearly to zero; for
    CMA-ES the first standard deviation. The score is taken `checks` times, evenly spread; after `patience` of them
    without a new best the search ends. `seed` is CMA-ES's."""

    steps: int = 100
    rate: float = 0.05
    checks: int = 10
    patience: int = 4
    seed: int = 12345

    def is_check(self, step: int) -> bool:
        """Whether the score is taken after this step, counted from 1."""
        every = max(1, math.ceil(self.steps / self.checks))
        return step % every == 0 or step == self.steps


@dataclass(frozen=True)
class SearchResult:
    """The coefficients `(N, G)` of the best score, which may be those of the start (`step` 0). `history` has an entry
    per check: `step`, `loss` (mean since the last check), `score`."""

    coefficients: torch.Tensor
    score: float
    step: int
    history: list[dict] = field(default_factory=list)


def search(objective: Objective, start: torch.Tensor, options: SearchOptions = SearchOptions(),
           method: str = "gradient", say: Callable[[str], None] = lambda line: None,
           start_score: float | None = None) -> SearchResult:
    """Coefficients with the best score that the search meets; never worse than those it starts from.

    Args:
        start: `(N, G)`.
        method: `gradient` or `cmaes` (needs the package cma).
        start_score: of `start`, if known.

    Raises:
        StitchError: unknown method, or cma is not installed.
    """
    if method not in SEARCHES:
        raise StitchError(f"search {method!r} is not one of {', '.join(SEARCHES)}")
    walk = {"gradient": _gradient, "cmaes": _cmaes}[method](objective, start, options)
    best = SearchResult(start.clone(), objective.score(start) if start_score is None else start_score, 0)
    history, losses, idle = [], [], 0
    for step, (loss, c) in enumerate(walk, start=1):
        losses.append(loss)
        if not options.is_check(step):
            continue
        score = objective.score(c)
        history.append({"step": step, "loss": sum(losses) / len(losses), "score": score})
        say(f"step {step} of {options.steps}: loss {history[-1]['loss']:.4f}, validation {score:.4f}")
        losses, idle = [], idle + 1
        if score > best.score:
            best, idle = SearchResult(c.clone(), score, step), 0
        if idle >= options.patience:
            break
    return SearchResult(best.coefficients, best.score, best.step, history)


def _gradient(objective: Objective, start: torch.Tensor, options: SearchOptions):
    """Yields `(loss before the step, coefficients after it)`."""
    c = start.clone().requires_grad_()
    adam = torch.optim.Adam([c], lr=options.rate)
    for step in range(options.steps):
        adam.param_groups[0]["lr"] = options.rate * (1 - step / options.steps)
        loss, gradient = objective.loss_and_gradient(c.detach())
        # One bad batch in half precision must not end the search.
        if math.isfinite(loss) and torch.isfinite(gradient).all():
            c.grad = gradient
            adam.step()
        yield loss, c.detach()


def require_cma():
    """The package, which is an optional extra."""
    try:
        import cma
    except ImportError:
        raise StitchError('the search cmaes needs the package cma: pip install "nnunetv2-stitch[cmaes]", or use '
                          '-search gradient') from None
    return cma


def _cmaes(objective: Objective, start: torch.Tensor, options: SearchOptions):
    """Yields `(best loss of the generation, the distribution's mean)`."""
    cma = require_cma()
    strategy = cma.CMAEvolutionStrategy(start.flatten().tolist(), max(options.rate, 1e-6), {
        "seed": options.seed % 2**31 or 1, "verbose": -9, "maxiter": options.steps, "tolfun": 0, "tolx": 1e-9})
    for _ in range(options.steps):
        candidates = strategy.ask()
        losses = [objective.loss(torch.tensor(x, dtype=torch.float64).view_as(start)) for x in candidates]
        strategy.tell(candidates, losses)
        yield min(losses), torch.tensor(strategy.result.xfavorite, dtype=torch.float64).view_as(start)
