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
        config: where to search.
        problem: to be solved.
        space: what is chosen.
        hold: steps that a choice is held.
    """

    config: ProposalConfig
    problem: Problem
    space: ActionSpace
    hold: int

    def center(self, samples: int, objective: Objective) -> Proposal:
        """The Gaussian to search from; `samples` candidates in a round, which the objective scores."""
        if self.config.center == "inverse":
            return around(self.space, self.asked, self.config.std)
        if self.config.center == "retrieval":
            real = self.retrieved(samples)
            scores = objective(real).without_nan()
            return around(self.space, best_of(real, scores, scores.order(1)).actions, self.config.std)
        return anywhere(self.space, len(self.problem.latent), self.problem.model.horizon, self.hold, self.config.std)

    def candidates(self, samples: int) -> Iterator[Tensor]:
        """More candidates for a first round of `samples`, (B, G, C, F) each."""
        if "inverse" in self.config.candidates:
            yield self.asked.unsqueeze(1)
        if "retrieval" in self.config.candidates:
            yield self.retrieved(-(-samples // 2))

    @cached_property
    def asked(self) -> Tensor:
        """The actions that the inverse model asks for, as choices, (B, C, F)."""
        problem = self.problem
        followed = problem.model.follow_inverse(problem.latent, problem.target, self.space.clamp)
        return self.space.choices(followed.actions[:, 0], self.hold)

    def retrieved(self, number: int) -> Tensor:
        """The `number` real sequences that started nearest to the present latents, nearest first, (B, n, C, F)."""
        bank = self.problem.model.bank
        assert bank is not None, "checked at the start"
        near = bank.nearest(self.problem.latent, number, self.problem.model.horizon)  # (B, n, H, A)
        return self.space.choices(near.flatten(0, 1), self.hold).unflatten(0, near.shape[:2])


def anywhere(space: ActionSpace, batch: int, horizon: int, hold: int, std: float) -> Proposal:
    """N(0, std); of discrete choices all options alike."""
    value = 1 / space.dim_free if space.discrete else 0.0
    mean = space.choices(space.low.new_full((batch, horizon, space.dim), value), hold)
    return Proposal(mean, torch.full_like(mean, std), space.low, space.high)


def around(space: ActionSpace, mean: Tensor, std: float) -> Proposal:
    """The neighbourhood of choices (B, C, F), which the bounds never cut: a real action may lie beyond them.

    Of discrete choices half of the probability goes to all options alike.
    """
    if space.discrete:
        mean = (mean + 1 / space.dim_free) / 2
    low, high = torch.minimum(space.low, mean), torch.maximum(space.high, mean)
    return Proposal(mean, torch.full_like(mean, std), low, high)


def trying(proposal: Proposal, guesses: Tensor) -> Proposal:
    """The proposal with more guesses (B, G, C, F) behind those it has; as in `around`, the bounds do not cut them."""
    low, high = torch.minimum(proposal.low, guesses.amin(1)), torch.maximum(proposal.high, guesses.amax(1))
    if proposal.guesses is not None:
        guesses = torch.cat([proposal.guesses, guesses], 1)
    return Proposal(proposal.mean, proposal.std, low, high, guesses)
