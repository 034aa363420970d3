"""Goals that many latents meet, at metric levels: how many steps away the nearest of them is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy

import torch
from torch import Tensor

from hiwm.planning.goals.goal import Goal, distance_to

STATES = 5  # so few that all are near the goal


class StepsToGoal(Goal):
    """A goal that many latents meet, such as one on a part of the state. At metric levels it costs the steps to the nearest of a few real latents that meet it best.

    The goal's own cost, such as the distance between two positions, says nothing of the way there. Other levels plan by it.

    Args:
        goal: what is to be reached.
        real: real latents of each metric level, level -> (N, D).
        reached: steps within which the goal counts as reached at each of these levels, level -> ().
    """

    def __init__(self, goal: Goal, real: Mapping[int, Tensor], reached: Mapping[int, Tensor]) -> None:
        self.goal, self.real, self.reached = goal, real, reached
        self.part, self.moves = goal.part, goal.moves
        self.states = {level: self._meet(level, latents) for level, latents in real.items()}

    def _meet(self, level: int, latents: Tensor) -> Tensor:
        """The latents that meet the goals best and are not forbidden, (B, K, D)."""
        every = latents.expand(self.size, -1, -1)
        cost, violation = self.goal.cost(level, every), self.goal.violation(level, every)
        if violation is not None:
            cost = cost.masked_fill(violation > 0, torch.inf)
        return latents[cost.topk(min(STATES, len(latents)), dim=1, largest=False).indices]

    @property
    def size(self) -> int:
        return self.goal.size

    def cost(self, level: int, latent: Tensor) -> Tensor:
        if level not in self.states:
            return self.goal.cost(level, latent)
        return torch.stack([distance_to(state, latent, p=1) for state in self.states[level].unbind(1)]).amin(0)

    def select(self, rows: Tensor) -> StepsToGoal:
        selected = copy(self)
        selected.goal = self.goal.select(rows)
        selected.part = selected.goal.part
        selected.states = {level: states[rows] for level, states in self.states.items()}
        return selected

    def latent(self, level: int) -> Tensor | None:
        return self.goal.latent(level)

    def violation(self, level: int, latent: Tensor) -> Tensor | None:
        return self.goal.violation(level, latent)

    def reached_cost(self, level: int) -> Tensor:
        return self.reached[level].expand(self.size) if level in self.reached else self.goal.reached_cost(level)

    def more_accurate_than_above(self, level: int) -> Tensor:
        if level + 1 in self.states:  # few latents stand for the goal there
            return torch.ones(self.size, dtype=torch.bool, device=self.states[level + 1].device)
        return self.goal.more_accurate_than_above(level)

    def observe(self, latents: Sequence[Tensor]) -> tuple[Goal, Tensor]:
        goal, changed = self.goal.observe(latents)
        return self if goal is self.goal else StepsToGoal(goal, self.real, self.reached), changed
