"""The target of a level, its cost, and the interface of navigators, which give the top level its targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from hiwm.planning.explain.graph_path import GraphPath
from hiwm.planning.goals import Goal, distance_to
from hiwm.planning.rollout import Rollout


@dataclass(frozen=True)
class Target:
    """What a level plans towards.

    Args:
        cost: cost of predicted latents with respect to the target, rollout -> (B, S, H).
        latent: the latent to reach, (B, D of `level`); of several that meet the goal the nearest; None if the goal knows none.
        level: level in whose latent space `latent` lies: the one that plans, or the one above.
        deadline: environment steps until it should be reached.
        path: path over a landmark graph that the target is on; None without a graph.
        goal: share of `cost` that is due to the goal itself where the target is a subgoal, rollout of one candidate -> (B, H);
            None where no share is.
    """

    cost: Callable[[Rollout], Tensor]
    latent: Tensor | None
    level: int
    deadline: int
    path: GraphPath | None = None
    goal: Callable[[Rollout], Tensor | None] = lambda rollout: None


class SubgoalCost:
    """Distance to a subgoal after encoding into the level above, plus the weighted cost of the goal itself.

    Args:
        encode: latents of this level (..., D) -> latents of the level above.
        subgoal: subgoal, a latent of the level above, (B, D_above).
        goal: goals of the B episodes.
        level: number of this level.
        goal_weight: weight of the goal's cost; a lower level often reads the goal more accurately than the one above.
        p: power of the distance of the level above.
    """

    def __init__(
        self, encode: Callable[[Tensor], Tensor], subgoal: Tensor, goal: Goal, level: int, goal_weight: float, p: int
    ) -> None:
        self.encode, self.subgoal, self.p = encode, subgoal, p
        self.goal, self.level, self.goal_weight = goal, level, goal_weight

    def __call__(self, rollout: Rollout) -> Tensor:
        return self.of(rollout.latents, self.encode(rollout.latents))

    def of(self, latents: Tensor, above: Tensor) -> Tensor:
        """The cost of latents (B, ..., D) with known encodings (B, ..., D_above), (B, ...)."""
        distance, weight = distance_to(self.subgoal, above, self.p), self.goal_weight
        return distance + weight * self.goal.cost(self.level, latents) if weight else distance

    def of_goal(self, rollout: Rollout) -> Tensor | None:
        """The share of the goal itself in the cost of one candidate per episode, (B, H); None without one."""
        return self.goal_weight * self.goal.cost(self.level, rollout.latents)[:, 0] if self.goal_weight else None


class Navigator(Protocol):
    """Gives the top level its targets on the way to the goals of B episodes."""

    def start(self, goal: Goal) -> None:
        """Begin B episodes."""

    def update_goal(self, goal: Goal, changed: Tensor) -> None:
        """Continue towards these goals; `changed`, (B,), says which are new."""

    def select(self, rows: Tensor, goal: Goal) -> None:
        """Continue with some of the episodes, given as indices, (N,); `goal` is theirs."""

    def target(self, latent: Tensor, step: int) -> Target:
        """The next target of episodes at latents (B, D), after `step` environment steps."""
        ...


class DirectNavigator:
    """A navigator without a graph: the goal itself is the target.

    Args:
        level: number of the top level.
        deadline: environment steps that its plans look ahead.
    """

    def __init__(self, level: int, deadline: int) -> None:
        self.level, self.deadline = level, deadline

    def start(self, goal: Goal) -> None:
        self.goal = goal

    def update_goal(self, goal: Goal, changed: Tensor) -> None:
        self.goal = goal

    def select(self, rows: Tensor, goal: Goal) -> None:
        self.goal = goal

    def target(self, latent: Tensor, step: int) -> Target:
        goal, level = self.goal, self.level
        wanted = goal.nearest(level, latent)
        return Target(lambda rollout: goal.cost(level, rollout.latents), wanted, level, self.deadline)
