"""Where a search over a level's actions begins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hiwm.planning.action_space import ActionSpace
from hiwm.planning.config import ProposalConfig
from hiwm.planning.solvers.solver import Objective, Proposal, best_of
from hiwm.planning.strategies.strategy import Problem


@dataclass(frozen=True)
class Proposer:
    """Makes the proposal of one search.

    Args:
        config: where to begin.
        problem: to be solved.
        space: the actions to search.
        action_repeat: steps that a choice is held.
    """

    config: ProposalConfig
    problem: Problem
    space: ActionSpace
    action_repeat: int

    def proposal(self, samples: int, objective: Objective) -> Proposal:
        """The Gaussian to begin with, for `samples` candidates per round. With retrieval, the objective scores real sequences."""
        if self.config.center == "inverse":
            return proposal_around(self.space, self.inverse_choices, self.config.std)
        if self.config.center == "retrieval":
            real = self.retrieved(samples)
            scores = objective(real).without_nan()
            return proposal_around(self.space, best_of(real, scores, scores.order(1)).actions, self.config.std)
        batch, horizon = len(self.problem.latent), self.problem.model.horizon
        return uninformed_proposal(self.space, batch, horizon, self.action_repeat, self.config.std)

    def guesses(self, samples: int) -> Iterator[Tensor]:
        """Guesses for a first round of `samples` candidates, (B, G, C, F) each."""
        if "inverse" in self.config.candidates:
            yield self.inverse_choices.unsqueeze(1)
        if "retrieval" in self.config.candidates:
            yield self.retrieved(-(-samples // 2))

    @cached_property
    def inverse_choices(self) -> Tensor:
        """The actions of the inverse model as choices, (B, C, F)."""
        return self.space.choices(self.problem.follow_inverse(self.space.clamp).actions[:, 0], self.action_repeat)

    def retrieved(self, number: int) -> Tensor:
        """The `number` real sequences that started nearest to the present latents, nearest first, (B, n, C, F).

        Latents are compared by what the action encoder sees of them, because what an action does depends on that.
        """
        model = self.problem.model
        assert model.bank is not None, "checked at the start"
        near = model.bank.nearest(self.problem.latent, number, model.horizon, model.for_actions)  # (B, n, H, A)
        return self.space.choices(near.flatten(0, 1), self.action_repeat).unflatten(0, near.shape[:2])


def uninformed_proposal(space: ActionSpace, batch: int, horizon: int, action_repeat: int, std: float) -> Proposal:
    """N(0, std); equal probabilities for the options of discrete choices."""
    value = 1 / space.dim_free if space.discrete else 0.0
    mean = space.choices(space.low.new_full((batch, horizon, space.dim), value), action_repeat)
    return Proposal(mean, torch.full_like(mean, std), space.low, space.high)


def proposal_around(space: ActionSpace, mean: Tensor, std: float) -> Proposal:
    """N(mean, std) around choices (B, C, F). The bounds are widened to hold them, because a real action may lie beyond.

    For discrete choices, half of the probability is spread evenly over all options.
    """
    if space.discrete:
        mean = (mean + 1 / space.dim_free) / 2
    low, high = torch.minimum(space.low, mean), torch.maximum(space.high, mean)
    return Proposal(mean, torch.full_like(mean, std), low, high)
