"""Cross-entropy method (Rubinstein 1999): sample, fit a Gaussian to the elite, repeat."""

from __future__ import annotations

import torch
from torch import Tensor

from hiwm.checks import at_least, within
from hiwm.planning.solvers.gaussian import Gaussian, GaussianSolver
from hiwm.planning.solvers.solver import Proposal, Scores, take


class CEM(GaussianSolver):
    """CEM that returns the best candidate of all rounds; the mean of every round is a candidate.

    Args:
        iterations: rounds.
        elite_share: share of the candidates that the next Gaussian is fitted to (at least 2).
        min_std: smallest standard deviation of a later round, as a share of that of the proposal.
    """

    def __init__(self, *, iterations: int = 3, elite_share: float = 0.15, min_std: float = 0.1) -> None:
        at_least(1, iterations=iterations)
        within("(0, 1]", elite_share=elite_share)
        within("[0, inf)", min_std=min_std)
        self.iterations = iterations
        self.elite_share = elite_share
        self.min_std = min_std

    def update(
        self, proposal: Proposal, state: Gaussian, candidates: Tensor, scores: Scores, elite: Tensor
    ) -> Gaussian:
        best = take(candidates, elite)
        return Gaussian(best.mean(1), torch.maximum(best.std(1), self.min_std * proposal.std))
