"""Model predictive path integral control: the next mean is the mean of the candidates, weighted by their costs."""

from __future__ import annotations

import torch
from torch import Tensor

from hiwm.checks import at_least, within
from hiwm.planning.solvers.gaussian import Gaussian, GaussianSolver
from hiwm.planning.solvers.solver import Proposal, Scores, take


class MPPI(GaussianSolver):
    """mean' = sum_s w_s a_s  with  w_s = exp(-(J_s - min J) / temperature) / sum of these.

    J_s is the cost of candidate a_s. Williams et al. (2017, "Information theoretic MPC", with gamma = 0: no control cost)
    weight all candidates and keep the standard deviation: elite_share 1, min_std null. TD-MPC2 (Hansen et al. 2024, arXiv
    2310.16828) weights only the elite and fits the standard deviation with the same weights. The result is the best
    candidate of all rounds. The mean of every round is a candidate.

    Args:
        iterations: rounds.
        temperature: lambda, in the unit of the cost; if it is small, only the best candidate counts.
        elite_share: share of the candidates that get a weight (at least 2).
        min_std: smallest standard deviation of a later round, as a share of the proposal's, which is the largest. Null: every
            round keeps the proposal's standard deviation.
    """

    def __init__(
        self,
        *,
        iterations: int = 3,
        temperature: float = 1.0,
        elite_share: float = 1.0,
        min_std: float | None = None,
    ) -> None:
        at_least(1, iterations=iterations)
        within("(0, inf)", temperature=temperature)
        within("(0, 1]", elite_share=elite_share)
        if min_std is not None:
            within("[0, 1]", min_std=min_std)
        self.iterations = iterations
        self.temperature = temperature
        self.elite_share = elite_share
        self.min_std = min_std

    def update(
        self, proposal: Proposal, state: Gaussian, candidates: Tensor, scores: Scores, elite: Tensor
    ) -> Gaussian:
        best = take(candidates, elite)
        weight = weights(take(scores.penalised(), elite), self.temperature)[:, :, None, None]
        mean = (weight * best).sum(1)
        if self.min_std is None:
            return Gaussian(mean, state.std)
        std = (weight * (best - mean.unsqueeze(1)).square()).sum(1).sqrt()
        return Gaussian(mean, torch.minimum(torch.maximum(std, self.min_std * proposal.std), proposal.std))


def weights(cost: Tensor, temperature: float) -> Tensor:
    """Weights w_s of `MPPI`, (B, S) -> (B, S); all equal where every cost is inf."""
    cost = cost.nan_to_num()  # inf becomes the largest number, because inf - inf is NaN
    return torch.softmax((cost.amin(1, keepdim=True) - cost) / temperature, 1)
