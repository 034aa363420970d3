"""Random shooting: draw from the proposal and take the best. A baseline for every other method."""

from __future__ import annotations

from torch import Tensor

from hiwm.checks import at_least
from hiwm.planning.solvers.gaussian import Gaussian, GaussianSolver
from hiwm.planning.solvers.solver import Proposal, Scores


class RandomShooting(GaussianSolver):
    """The best of candidates drawn from the proposal; with `planner.warm_start`, predictive sampling (arXiv 2212.00541).

    Args:
        iterations: rounds. All draw from the proposal; only the time limit, checked between rounds, makes more than one useful.
    """

    min_samples = 1

    def __init__(self, *, iterations: int = 1) -> None:
        at_least(1, iterations=iterations)
        self.iterations = iterations

    def update(
        self, proposal: Proposal, state: Gaussian, candidates: Tensor, scores: Scores, elite: Tensor
    ) -> Gaussian:
        return state
