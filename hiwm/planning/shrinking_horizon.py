"""A horizon that shrinks as the goal nears, and levels that then plan for the goal itself.

With a fixed horizon a plan may never arrive: each new plan may postpone the arrival to its own last step. With a shrinking
horizon, a plan that meets the goal, as far as its level can tell, sets a time of arrival, and later plans of that level may
take no longer. The horizon shrinks to one step. Once the level below can look that far itself, and reads the goal more
accurately, it plans for the goal instead of the subgoal. It also does so while a metric level above says that the goal is that
near, if that goal is one latent: that level may be too coarse to ever plan to meet it. A top horizon that shrinks to 1, and a level that is then
skipped, are from H-JEPA (arXiv 2610.06805); the times of arrival are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from hiwm.heads.action_bank import ActionBank, mean_step
from hiwm.hierarchy import Hierarchy
from hiwm.levels.distance import distance
from hiwm.planning.goals import Goal
from hiwm.planning.rollout import Rollout
from hiwm.planning.targets import Target


class ShrinkingHorizon:
    """A `HorizonSchedule` that shrinks to a time of arrival; each level has its own time of arrival in each episode.

    A level gets its whole horizon back as soon as a plan does not meet the goal by the time of arrival.

    Args:
        periods: environment steps in one step of each level, bottom first.
        horizons: steps of each level that a plan looks ahead at most.
        searches: whether each level searches; a level that follows an inverse model needs goals with a latent.
        metric: whether the latent distance of each level is a number of its steps.
    """

    def __init__(
        self, periods: Sequence[int], horizons: Sequence[int], searches: Sequence[bool], metric: Sequence[bool]
    ) -> None:
        self.periods, self.horizons, self.searches, self.metric = periods, horizons, searches, metric
        self.top = len(periods) - 1

    def start(self, goal: Goal) -> None:
        self._measure(goal)
        #: environment step at which each level's plans are to have met the goal, (B,); inf where none did
        self.arrival = [torch.full_like(error, torch.inf) for error in self.errors]
        #: whether each level below a metric one sees the goal by the distance of that one, (B,)
        self.near = [torch.zeros_like(error, dtype=torch.bool) for error in self.errors[: self.top]]

    def update_goal(self, goal: Goal, changed: Tensor) -> None:
        self._measure(goal)
        self.arrival = [arrival.masked_fill(changed, torch.inf) for arrival in self.arrival]
        self.near = [near & ~changed for near in self.near]

    def select(self, rows: Tensor, goal: Goal) -> None:
        self._measure(goal)
        self.arrival = [arrival[rows] for arrival in self.arrival]
        self.near = [near[rows] for near in self.near]

    def observe(self, latents: Sequence[Tensor]) -> None:
        for k in range(self.top):
            goal = self.goal.latent(k + 1)
            if self.metric[k + 1] and goal is not None:
                sight = self.horizons[k] * self.periods[k] / self.periods[k + 1]
                self.near[k] = distance(goal, latents[k + 1], p=1) <= sight

    def may_plan_for_goal(self, k: int) -> bool:
        return self.searches[k] or self.goal.latent(k) is not None

    def at_goal(self, k: int, step: int) -> Tensor:
        """Whether level k plans for the goal itself, because every level above it is skipped, (B,)."""
        if k == self.top:
            return torch.ones_like(self.errors[k], dtype=torch.bool)
        in_reach = self._left(k + 1, step) <= self.horizons[k] * self.periods[k]
        return self.at_goal(k + 1, step) & self.more_accurate[k] & (in_reach | self.near[k])

    def target(self, k: int, target: Target, step: int) -> Target:
        if not self.may_plan_for_goal(k):
            return target
        at_goal, within = self.at_goal(k, step), self._within(k, step)
        latent, whole = target.latent, self.goal.latent(target.level)
        if latent is not None and whole is not None:  # else the subgoal stays, because an inverse model needs a latent
            latent = torch.where(at_goal.unsqueeze(1), whole, latent)
        goal = self.goal
        # on a GPU both costs are computed, because to ask would wait for it
        asks = at_goal.device.type == "cpu"
        none, every = asks and not at_goal.any(), asks and at_goal.all()

        def cost(rollout: Rollout) -> Tensor:
            if every:
                distance = goal.cost(k, rollout.latents)
            elif not none:
                distance = torch.where(at_goal[:, None, None], goal.cost(k, rollout.latents), target.cost(rollout))
            else:
                distance = target.cost(rollout)
            steps = self._steps(k)[: distance.shape[-1]]  # a strategy may evaluate shorter plans
            return distance.masked_fill(steps > within[:, None, None], torch.inf)

        def of_goal(rollout: Rollout) -> Tensor | None:
            share = target.goal(rollout)
            return None if share is None else share.masked_fill(at_goal.unsqueeze(1), 0)  # there the goal is the target

        return replace(target, latent=latent, cost=cost, goal=of_goal)

    def follows_subgoal(self, k: int, step: int) -> Tensor:
        return (
            ~self.at_goal(k, step) if self.may_plan_for_goal(k) else torch.ones_like(self.errors[k], dtype=torch.bool)
        )

    def current_cost(self, k: int, latent: Tensor, cost: Tensor, step: int) -> Tensor:
        if not self.may_plan_for_goal(k):
            return cost
        return torch.where(self.at_goal(k, step), self.goal.cost(k, latent), cost)

    def note_plan(self, k: int, predicted: Tensor, step: int) -> Tensor | None:
        if not self.may_plan_for_goal(k):
            return None
        at_goal, within = self.at_goal(k, step), self._within(k, step)
        steps = self._steps(k)[: predicted.shape[1]]  # a strategy may plan fewer
        met = (self.goal.cost(k, predicted) <= self.errors[k].unsqueeze(1)) & (steps <= within.unsqueeze(1))
        first = torch.where(met, steps, torch.inf).amin(1)  # inf: not at all
        arrival = step + torch.minimum(first * self.periods[k], self._left(k, step))
        self.arrival[k] = torch.where(at_goal & first.isfinite(), arrival, torch.inf)
        return torch.where(at_goal, within, 0)

    def _measure(self, goal: Goal) -> None:
        errors = [goal.reached_cost(k) for k in range(self.top + 1)]  # a goal may not know its errors
        more_accurate = [goal.more_accurate_than_above(k) for k in range(self.top)]
        self.goal, self.errors, self.more_accurate = goal, errors, more_accurate

    def _left(self, k: int, step: int) -> Tensor:
        """Environment steps until level k's arrival, (B,); inf without one, or after it."""
        left = self.arrival[k] - step
        return torch.where(left > 0, left, torch.inf)

    def _within(self, k: int, step: int) -> Tensor:
        """Steps of level k that count in a plan, (B,): those up to its arrival. All count where it plans towards a subgoal."""
        left = (self._left(k, step) / self.periods[k]).ceil().clamp(max=self.horizons[k])
        return torch.where(self.at_goal(k, step), left, self.horizons[k]).long()

    def _steps(self, k: int) -> Tensor:
        """1, 2, ..., horizon of level k."""
        return torch.arange(1, self.horizons[k] + 1, device=self.errors[k].device)


def half_steps(hierarchy: Hierarchy, banks: Sequence[ActionBank]) -> list[Tensor]:
    """`mean_step` / 2^p of every level: the cost of a goal half a step away.

    No head reads a whole observation, so there is no measured error for it. But a level that moves in steps can end up half a
    step away from any place.
    """
    if len(banks) < len(hierarchy):
        raise ValueError(
            f"planner.shrinking_horizon is true but level {len(banks)} of the hierarchy has no saved real actions, whose steps "
            "say how near a whole observation counts as reached; expected false, or run `hiwm train` again"
        )
    return [mean_step(level, bank, level.p) / 2**level.p for level, bank in zip(hierarchy.levels, banks, strict=False)]
