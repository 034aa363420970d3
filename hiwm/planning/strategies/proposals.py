"""Where a search over a level's actions begins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hiwm.heads.action_bank import ActionBank
from hiwm.planning.action_space import ActionSpace
from hiwm.planning.config import ProposalConfig
from hiwm.planning.solvers.solver import Objective, Proposal, best_of


@dataclass(frozen=True)
class Proposer:
    """Makes the proposals of a search.

    Args:
        config: where to search.
        hold: steps that a choice is held.
    """

    config: ProposalConfig
    hold: int

    def propose(
        self,
        space: ActionSpace,
        latent: Tensor,
        horizon: int,
        samples: int,
        *,
        bank: ActionBank | None,
        inverse: Callable[[], Tensor],
        objective: Objective,
        previous: Callable[[Tensor], Tensor] | None,
    ) -> Proposal:
        """The proposal of one search.

        Args:
            space: what is chosen.
            latent: where the episodes are, (B, D).
            horizon: steps H of the level.
            samples: candidates in a round.
            bank: real sequences; None without.
            inverse: gives the actions that the inverse model asks for, (B, H, A).
            objective: scores candidates (B, S, C, F).
            previous: (the proposal's mean) -> what the last search ended with, shifted to now, (B, G, C, F); None without.
        """
        asked = space.choices(inverse(), self.hold) if self.config.needs_inverse else None
        if self.config.center == "inverse":
            assert asked is not None, "center inverse asks"
            proposal = around(space, asked, self.config.std)
        elif self.config.center == "retrieval":
            assert bank is not None, "checked at the start"
            real = self._real(space, bank, latent, horizon, samples)
            scores = objective(real).without_nan()
            proposal = around(space, best_of(real, scores, scores.order(1)).actions, self.config.std)
        else:
            proposal = anywhere(space, len(latent), horizon, self.hold, self.config.std)
        if previous is not None:
            proposal = trying(proposal, previous(proposal.mean), bounded=True)
        if asked is not None and "inverse" in self.config.candidates:
            proposal = trying(proposal, asked.unsqueeze(1))
        if "retrieval" in self.config.candidates:
            assert bank is not None, "checked at the start"
            proposal = trying(proposal, self._real(space, bank, latent, horizon, -(-samples // 2)))
        return proposal

    def _real(self, space: ActionSpace, bank: ActionBank, latent: Tensor, horizon: int, number: int) -> Tensor:
        """The `number` real sequences that started nearest to the latents (B, D), nearest first, (B, n, C, F)."""
        near = bank.nearest(latent, number, horizon)  # (B, n, H, A)
        return space.choices(near.flatten(0, 1), self.hold).unflatten(0, near.shape[:2])


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


def trying(proposal: Proposal, guesses: Tensor, bounded: bool = False) -> Proposal:
    """The proposal with more guesses (B, G, C, F) behind those it has; the bounds do not cut them unless `bounded`."""
    low, high = proposal.low, proposal.high
    if not bounded:
        low, high = torch.minimum(low, guesses.amin(1)), torch.maximum(high, guesses.amax(1))
    if proposal.guesses is not None:
        guesses = torch.cat([proposal.guesses, guesses], 1)
    return Proposal(proposal.mean, proposal.std, low, high, guesses)
