"""Published ways to merge without a search of coefficients, to compare with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from nnunetv2_stitch.merging.atlas import Atlas
from nnunetv2_stitch.merging.objective import CentreObjective
from nnunetv2_stitch.training.batchnorm import use_batch_statistics

FISHER_FLOOR = 1e-6  # of the member's mean: parameters that no output depends on still need a weight


def mixture(atlas: Atlas, weights: Sequence[float]) -> dict[str, torch.Tensor]:
    """`sum_i weights[i] * theta_i`, by name; the weights sum to one."""
    return {n: sum(w * m[n].double() for w, m in zip(weights, atlas.members)).to(atlas.base[n].dtype)
            for n in atlas.names}


def uniform(atlas: Atlas) -> list[float]:
    """The uniform soup (Wortsman et al., ICML 2022)."""
    return [1 / len(atlas)] * len(atlas)


def greedy_soup(scores: Sequence[float], score_of: Callable[[Sequence[float]], float]) -> tuple[list[float], float]:
    """The greedy soup (Wortsman et al., ICML 2022): members in order of their own score, each kept if the mean of those
    kept so far does not get worse by it.

    Args:
        scores: of each member alone.
        score_of: the score of a mixture by its weights.

    Returns:
        The weights, and their score.
    """
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    kept, best = order[:1], scores[order[0]]

    def weights(members: Sequence[int]) -> list[float]:
        return [1 / len(members) if i in members else 0.0 for i in range(len(scores))]

    for i in order[1:]:
        score = score_of(weights([*kept, i]))
        if score >= best:
            kept, best = [*kept, i], score
    return weights(kept), best


def fisher_merge(objective: CentreObjective) -> dict[str, torch.Tensor]:
    """Fisher-weighted averaging (Matena and Raffel, NeurIPS 2022): each parameter is the mean of the members', weighted
    by the diagonal of each member's Fisher information.

    The information is measured on the centre's fixed batches, image by image, with labels drawn from the member's own
    output, so that none are needed. Its scale is the same for all members and cancels.

    Returns:
        Parameters by name, on the CPU.
    """
    atlas, network = objective.atlas, objective.network
    above = {n: torch.zeros_like(v, dtype=torch.float64) for n, v in atlas.base.items()}
    below = {n: torch.zeros_like(v, dtype=torch.float64) for n, v in atlas.base.items()}
    generator = torch.Generator().manual_seed(0)
    for i, member in enumerate(atlas.members):
        atlas.write_member(network, i)
        information = _fisher(objective, generator)
        total = sum(float(v.sum()) for v in information.values())
        floor = FISHER_FLOOR * total / sum(v.numel() for v in information.values()) or 1.0
        for name, value in information.items():
            weight = value.cpu().double() + floor
            above[name] += weight * member[name]
            below[name] += weight
    return {n: (above[n] / below[n]).to(atlas.base[n].dtype) for n in atlas.names}


def _fisher(objective: CentreObjective, generator: torch.Generator) -> dict[str, torch.Tensor]:
    network, regions = objective.network, objective.labels.has_regions
    use_batch_statistics(network)
    objective.centre.deep_supervision(False)
    found = {n: torch.zeros_like(p) for n, p in network.named_parameters()}
    for batch in objective.fixed:
        for image in batch["data"]:
            network.zero_grad(set_to_none=True)
            _sampled_loss(network(image[None].to(objective.device)), regions, generator).backward()
            for name, parameter in network.named_parameters():
                if parameter.grad is not None:  # heads of lower resolution have none
                    found[name] += parameter.grad ** 2
    network.zero_grad(set_to_none=True)
    return found


def _sampled_loss(logits: torch.Tensor, regions: bool, generator: torch.Generator) -> torch.Tensor:
    """Minus the log-likelihood of labels drawn from the output itself, mean over voxels; logits `(1, K, *spatial)`."""
    with torch.no_grad():
        probabilities = torch.sigmoid(logits) if regions else torch.softmax(logits, 1).movedim(1, -1).flatten(0, -2)
        probabilities = probabilities.float().cpu()
        if regions:
            drawn = torch.bernoulli(probabilities, generator=generator).to(logits.device)
        else:
            # The inverse of the cumulative sum: torch.multinomial is limited in its size.
            steps = probabilities.cumsum(-1)
            points = torch.rand(steps.shape[0], 1, generator=generator)
            drawn = (points > steps[:, :-1]).sum(-1).view(1, *logits.shape[2:]).to(logits.device)
    if regions:
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, drawn)
    return torch.nn.functional.cross_entropy(logits, drawn)
