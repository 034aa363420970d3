"""Goals composed of other goals: any of them, all of them at once, one after another."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from hiwm.planning.goals.goal import Goal, check_same_size, deepest

WAYPOINT_LEVEL = 0  # the most accurate level; its latents decide whether a waypoint is reached


class CompositeGoal(Goal):
    """Goals for the same episodes. The constraints of each of them hold."""

    def __init__(self, goals: Sequence[Goal]) -> None:
        self.goals = check_same_size(goals)
        self.moves = any(goal.moves for goal in self.goals)

    @property
    def size(self) -> int:
        return self.goals[0].size

    @abstractmethod
    def compose(self, goals: Sequence[Goal]) -> Goal:
        """The same composition of other goals."""

    def select(self, rows: Tensor) -> Goal:
        return self.compose([goal.select(rows) for goal in self.goals])

    def more_accurate_than_above(self, level: int) -> Tensor:
        return torch.stack([goal.more_accurate_than_above(level) for goal in self.goals]).all(0)

    def violation(self, level: int, latent: Tensor) -> Tensor | None:
        return deepest([goal.violation(level, latent) for goal in self.goals])

    def observe(self, latents: Sequence[Tensor]) -> tuple[Goal, Tensor]:
        goals, changes = zip(*(goal.observe(latents) for goal in self.goals), strict=True)
        same = all(new is old for new, old in zip(goals, self.goals, strict=True))
        return self if same else self.compose(goals), torch.stack(changes).any(0)


class AnyOf(CompositeGoal):
    """The nearest of several goals."""

    def compose(self, goals: Sequence[Goal]) -> AnyOf:
        return AnyOf(goals)

    def cost(self, level: int, latent: Tensor) -> Tensor:
        return torch.stack([goal.cost(level, latent) for goal in self.goals]).amin(0)

    def has_latent(self, level: int) -> bool:
        return all(goal.has_latent(level) for goal in self.goals)

    def nearest(self, level: int, latent: Tensor) -> Tensor | None:
        known = _all_known([goal.nearest(level, latent) for goal in self.goals])
        if known is None:
            return None
        return _chosen(known, torch.stack([goal.cost(level, latent) for goal in self.goals]).argmin(0))

    def reached_cost(self, level: int) -> Tensor:
        return torch.stack([goal.reached_cost(level) for goal in self.goals]).amin(0)


class Sum(CompositeGoal):
    """The weighted sum of several goals' costs: all of them at once.

    Args:
        goals: goals for the same episodes.
        weights: one per goal; None: 1 each.
    """

    def __init__(self, goals: Sequence[Goal], weights: Sequence[float] | None = None) -> None:
        super().__init__(goals)
        self.weights = tuple(1.0 for _ in goals) if weights is None else tuple(weights)
        if len(self.weights) != len(self.goals):
            raise ValueError(f"{len(self.weights)} weights for {len(self.goals)} goals; expected one per goal")

    def cost(self, level: int, latent: Tensor) -> Tensor:
        return self._weighed([goal.cost(level, latent) for goal in self.goals])

    def reached_cost(self, level: int) -> Tensor:
        return self._weighed([goal.reached_cost(level) for goal in self.goals])

    def compose(self, goals: Sequence[Goal]) -> Sum:
        return Sum(goals, self.weights)

    def _weighed(self, values: Sequence[Tensor]) -> Tensor:
        return torch.stack([w * value for w, value in zip(self.weights, values, strict=True)]).sum(0)


class Waypoints(Goal):
    """The first goal until it is reached, then the next; the last one stays. A `KeepOut` applies while it is the current waypoint.

    Args:
        goals: waypoints for the same episodes, in order.
        tolerance: cost at level 0 at which a waypoint counts as reached; with `cauchy_scale` that is a logarithm.
        current: index of each episode's current waypoint, (B,); None: the first.
    """

    moves = True

    def __init__(self, goals: Sequence[Goal], tolerance: float, current: Tensor | None = None) -> None:
        self.goals = check_same_size(goals)
        if any(goal.moves for goal in self.goals):
            raise ValueError("a waypoint is itself made of Waypoints; expected one list of all of them")
        self.tolerance = tolerance
        self.current = torch.zeros(self.size, dtype=torch.long) if current is None else current
        parts = [goal.part for goal in self.goals]
        self.part = (
            None
            if any(part is None for part in parts)
            else self._of_current([part for part in parts if part is not None])
        )

    @property
    def size(self) -> int:
        return self.goals[0].size

    def cost(self, level: int, latent: Tensor) -> Tensor:
        return self._of_current([goal.cost(level, latent) for goal in self.goals])

    def latent(self, level: int) -> Tensor | None:
        return self._of_current_if_known([goal.latent(level) for goal in self.goals])

    def has_latent(self, level: int) -> bool:
        return all(goal.has_latent(level) for goal in self.goals)

    def nearest(self, level: int, latent: Tensor) -> Tensor | None:
        return self._of_current_if_known([goal.nearest(level, latent) for goal in self.goals])

    def select(self, rows: Tensor) -> Waypoints:
        return Waypoints(
            [goal.select(rows) for goal in self.goals], self.tolerance, self.current[rows.to(self.current.device)]
        )

    def reached_cost(self, level: int) -> Tensor:
        return self._of_current([goal.reached_cost(level) for goal in self.goals])

    def more_accurate_than_above(self, level: int) -> Tensor:
        return self._of_current([goal.more_accurate_than_above(level) for goal in self.goals])

    def violation(self, level: int, latent: Tensor) -> Tensor | None:
        violations = [goal.violation(level, latent) for goal in self.goals]
        if all(violation is None for violation in violations):
            return None
        nothing = latent.new_full(latent.shape[:-1], -torch.inf)
        return self._of_current([nothing if violation is None else violation for violation in violations])

    def observe(self, latents: Sequence[Tensor]) -> tuple[Goal, Tensor]:
        reached = self.cost(WAYPOINT_LEVEL, latents[WAYPOINT_LEVEL]) <= self.tolerance
        changed = reached & (self.current < len(self.goals) - 1)
        if not changed.any():
            return self, changed
        return Waypoints(self.goals, self.tolerance, self.current + changed), changed

    def _of_current_if_known(self, latents: Sequence[Tensor | None]) -> Tensor | None:
        known = _all_known(latents)
        return None if known is None else self._of_current(known)

    def _of_current(self, values: Sequence[Tensor]) -> Tensor:
        """From one (B, ...) per waypoint, the values of each episode's current waypoint, (B, ...)."""
        if self.current.device != values[0].device:
            self.current = self.current.to(values[0].device)
        return _chosen(values, self.current)


def _all_known(latents: Sequence[Tensor | None]) -> list[Tensor] | None:
    """The latents, if none is missing."""
    known = [latent for latent in latents if latent is not None]
    return known if len(known) == len(latents) else None


def _chosen(values: Sequence[Tensor], goal: Tensor) -> Tensor:
    """From one (B, ...) per goal, those of one goal per episode, given as (B,): (B, ...)."""
    return torch.stack(list(values))[goal, torch.arange(len(goal), device=goal.device)]
