"""Gradient descent on the actions through the model, from several starts at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hiwm.checks import at_least, within
from hiwm.planning.noise import EpisodeNoise
from hiwm.planning.solvers.gaussian import Gaussian
from hiwm.planning.solvers.solver import GRADIENT_PASSES, Proposal, Scores, Solver


@dataclass(frozen=True)
class Descent:
    """State of the descents.

    Args:
        points: (B, S, C, F); None before the first round.
        first, second: running means of the gradient and of its square, (B, S, C, F); None before the first step.
        round: rounds so far.
    """

    points: Tensor | None = None
    first: Tensor | None = None
    second: Tensor | None = None
    round: int = 0


class Gradient(Solver[Descent]):
    """Adam (Kingma & Ba 2015, Alg. 1) on the actions, projected to the bounds after each step.

    Descents start at the mean of the proposal, its guesses and draws from it. A candidate that violates a constraint descends
    on the violation until it is feasible. The cost must be differentiable with respect to the candidates.

    Args:
        iterations: rounds. One step lies between two rounds, so the gradient of the last round is not used.
        learning_rate: length of a step, in standard deviations of the proposal.
        decay: of the running means of the gradient and of its square (beta_1, beta_2).
    """

    min_samples = 1
    differentiates = True
    EPSILON = 1e-8

    def __init__(
        self, *, iterations: int = 8, learning_rate: float = 0.1, decay: tuple[float, float] = (0.9, 0.999)
    ) -> None:
        at_least(1, iterations=iterations)
        within("(0, inf)", learning_rate=learning_rate)
        within("[0, 1)", **{f"decay[{i}]": value for i, value in enumerate(decay)})
        self.iterations = iterations
        self.learning_rate = learning_rate
        self.decay = decay

    @property
    def cost_in_rounds(self) -> float:
        return float(GRADIENT_PASSES * self.iterations)

    def start(self, proposal: Proposal) -> Descent:
        return Descent()

    def draw(self, proposal: Proposal, state: Descent, samples: int, noise: EpisodeNoise) -> Tensor:
        return Gaussian.of(proposal).draw(samples, noise) if state.points is None else state.points

    def update(self, proposal: Proposal, state: Descent, candidates: Tensor, scores: Scores, elite: Tensor) -> Descent:
        penalised = scores.penalised()
        if not penalised.requires_grad:
            raise ValueError(
                "planner.solver is Gradient but the cost has no gradient with respect to the actions; expected a differentiable "
                "cost. Or set another planner.solver"
            )
        (slope,) = torch.autograd.grad(penalised.sum(), candidates)
        with torch.no_grad():
            slope = slope.nan_to_num(0, 0, 0)  # a candidate whose cost is not finite stays where it is
            (one, two), t = self.decay, state.round + 1
            first = torch.zeros_like(slope) if state.first is None else state.first
            second = torch.zeros_like(slope) if state.second is None else state.second
            first = one * first + (1 - one) * slope
            second = two * second + (1 - two) * slope.square()
            step = first / (1 - one**t) / ((second / (1 - two**t)).sqrt() + self.EPSILON)
            points = candidates - self.learning_rate * proposal.std.unsqueeze(1) * step
        return Descent(points, first, second, t)
