"""Random shooting: draw from the proposal and take the best. The baseline of every other method."""

from __future__ import annotations

import torch
from torch import Tensor

from hiwm.checks import at_least
from hiwm.planning.solvers.gaussian import Gaussian
from hiwm.planning.solvers.solver import Proposal, Scores, Solver


class RandomShooting(Solver[Gaussian]):
    """The best of candidates drawn from the proposal; with `planner.warm_start`, predictive sampling (arXiv 2212.00541).

    Args:
        iterations: rounds. All are alike, but the time limit is checked between them.
    """

    min_samples = 1

    def __init__(self, *, iterations: int = 1) -> None:
        at_least("RandomShooting.", 1, iterations=iterations)
        self.iterations = iterations

    def start(self, proposal: Proposal) -> Gaussian:
        """See `Solver`."""
        return Gaussian.of(proposal)

    def draw(self, proposal: Proposal, state: Gaussian, samples: int, generator: torch.Generator) -> Tensor:
        """See `Solver`."""
        return state.draw(samples, generator)

    def update(
        self, proposal: Proposal, state: Gaussian, candidates: Tensor, scores: Scores, elite: Tensor
    ) -> Gaussian:
        """See `Solver`."""
        return state
