"""How far each level looks ahead as the goal nears, and from when on the level below aims at the goal itself.

The least energy over a fixed horizon never asks for an arrival: every new plan may put it off to its own last step. Here a
plan that meets the goal, as far as its level can tell, says when, and later plans of that level may take no longer. What
is left shrinks to one step; once the level below can look that far itself, and sees the goal more sharply, it takes over. A top
horizon that shrinks to 1, and a level that is then skipped, are from H-JEPA (arXiv 2610.06805); the dates are ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hiwm.heads.action_bank import ActionBank
from hiwm.hierarchy import Hierarchy
from hiwm.planning.goals import Aim, Goal

SCHEDULES = ("fixed", "shrink")


class Schedule:
    """Arrivals of a batch of B episodes, each at its own distance from its goal.

    An arrival that passes without the next plan meeting the goal, or a plan that no longer meets it, gives the level its
    whole horizon back.

    Args:
        periods: environment steps in one step of each level, bottom first.
        horizon: steps of each level that a plan looks ahead at most.
    """

    def __init__(self, periods: Sequence[int], horizon: Sequence[int]) -> None:
        self.periods = periods
        self.horizon = horizon
        self.top = len(periods) - 1

    def start(self, goal: Goal) -> None:
        """Begin towards the goals."""
        self._meet(goal)
        #: environment step at which each level's plans are to have met the goal, (B,); inf where none did
        self.arrival = [torch.full_like(error, torch.inf) for error in self.errors]

    def renew(self, goal: Goal, changed: Tensor) -> None:
        """Go on towards goals of which some have changed, (B,)."""
        self._meet(goal)
        self.arrival = [arrival.masked_fill(changed, torch.inf) for arrival in self.arrival]

    def keep(self, rows: Tensor, goal: Goal) -> None:
        """Go on with some of the episodes only; theirs is the goal."""
        self._meet(goal)
        self.arrival = [arrival[rows] for arrival in self.arrival]

    def at_goal(self, k: int, step: int) -> Tensor:
        """Whether level k aims at the goal itself, for every level above it is skipped, (B,)."""
        if k == self.top:
            return torch.ones_like(self.errors[k], dtype=torch.bool)
        in_reach = self._left(k + 1, step) <= self.horizon[k] * self.periods[k]
        return self.at_goal(k + 1, step) & self.sharper[k] & in_reach

    def aim(self, k: int, aim: Aim, step: int) -> Aim:
        """What level k plans towards: the goal or, where a level above is not skipped, what that one handed down."""
        at_goal, within = self.at_goal(k, step), self._within(k, step)
        target, whole = aim.latent, self.goal.latent(aim.level)
        if target is not None and whole is not None:  # else the subgoal, for an inverse model needs a latent
            target = torch.where(at_goal.unsqueeze(1), whole, target)

        def energy(latent: Tensor) -> Tensor:
            if at_goal.all():
                away = self.goal.energy(k, latent)
            elif at_goal.any():
                away = torch.where(at_goal[:, None, None], self.goal.energy(k, latent), aim.energy(latent))
            else:
                away = aim.energy(latent)
            return away.masked_fill(self._steps(k) > within[:, None, None], torch.inf)

        return Aim(target, aim.level, energy)

    def planned(self, k: int, predicted: Tensor, step: int) -> Tensor:
        """Note when level k's plan meets the goal.

        Args:
            k: the level.
            predicted: latents the plan leads to, (B, H, D).
            step: environment step it was made at.

        Returns:
            Steps of the level within which it was to meet the goal, (B,); 0 where it aims at a subgoal.
        """
        at_goal, within, steps = self.at_goal(k, step), self._within(k, step), self._steps(k)
        met = (self.goal.energy(k, predicted) <= self.errors[k].unsqueeze(1)) & (steps <= within.unsqueeze(1))
        first = torch.where(met, steps, torch.inf).amin(1)  # inf: not at all
        arrival = step + torch.minimum(first * self.periods[k], self._left(k, step))
        self.arrival[k] = torch.where(at_goal & first.isfinite(), arrival, torch.inf)
        return torch.where(at_goal, within, 0)

    def _meet(self, goal: Goal) -> None:
        self.goal = goal
        self.errors = [goal.error(k) for k in range(self.top + 1)]
        self.sharper = [goal.sharper(k) for k in range(self.top)]

    def _left(self, k: int, step: int) -> Tensor:
        """Environment steps until level k's arrival, (B,); inf where there is none to come."""
        left = self.arrival[k] - step
        return torch.where(left > 0, left, torch.inf)

    def _within(self, k: int, step: int) -> Tensor:
        """Steps of level k that count in a plan, (B,): up to its arrival; all where it aims at a subgoal."""
        left = (self._left(k, step) / self.periods[k]).ceil().clamp(max=self.horizon[k])
        return torch.where(self.at_goal(k, step), left, self.horizon[k]).long()

    def _steps(self, k: int) -> Tensor:
        """1 to the horizon."""
        return torch.arange(1, self.horizon[k] + 1, device=self.errors[k].device)


def half_steps(hierarchy: Hierarchy, banks: Sequence[ActionBank]) -> list[Tensor]:
    """Of every level, E |f(z, a) - z|^2 / 4 over real latents and actions: the energy of a goal half a step away.

    A whole observation is read off no latent, so that no error of reading is known. But a level that moves in steps can end
    up half a step beside any place.
    """
    if len(banks) < len(hierarchy):
        raise ValueError(
            f"planner.schedule is 'shrink' but the hierarchy has no real actions of level {len(banks)} saved, whose steps tell "
            "how near a whole observation counts as reached; allowed: fixed, or `hiwm train` again"
        )
    with torch.no_grad():
        return [
            (level.predict(real.start, real.actions[:, 0]) - real.start).square().sum(-1).mean() / 4
            for level, real in zip(hierarchy.levels, banks, strict=False)
        ]
