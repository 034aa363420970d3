"""What a level plans towards, and where the top level gets it from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from hiwm.planning.explain.graph_path import GraphPath
from hiwm.planning.goals import Goal
from hiwm.planning.rollout import Rollout


@dataclass(frozen=True)
class Target:
    """What a level plans towards.

    Args:
        cost: how far predicted latents are from it, rollout -> (B, S, H).
        latent: the latent to reach, (B, D of `level`); None for a goal that many latents meet.
        level: the level in whose latent space `latent` lies: the one that plans, or the one above.
        deadline: environment steps until it should be reached.
        path: over a landmark graph, that the target lies on; None without a graph.
    """

    cost: Callable[[Rollout], Tensor]
    latent: Tensor | None
    level: int
    deadline: int
    path: GraphPath | None = None


class Navigator(Protocol):
    """Gives the top level its targets on the way to the goals of B episodes."""

    def start(self, goal: Goal) -> None:
        """Begin B episodes."""

    def update_goal(self, goal: Goal, changed: Tensor) -> None:
        """Go on towards goals of which some have changed, (B,)."""

    def select(self, rows: Tensor, goal: Goal) -> None:
        """Go on with some of the episodes; `goal` is theirs."""

    def target(self, latent: Tensor, step: int) -> Target:
        """The next target of episodes at latents (B, D), after `step` environment steps."""
        ...


class StraightToGoal:
    """The goal itself is the target.

    Args:
        level: the top level.
        deadline: environment steps that its plans look ahead.
    """

    def __init__(self, level: int, deadline: int) -> None:
        self.level, self.deadline = level, deadline

    def start(self, goal: Goal) -> None:
        """See `Navigator`."""
        self.goal = goal

    def update_goal(self, goal: Goal, changed: Tensor) -> None:
        """See `Navigator`."""
        self.goal = goal

    def select(self, rows: Tensor, goal: Goal) -> None:
        """See `Navigator`."""
        self.goal = goal

    def target(self, latent: Tensor, step: int) -> Target:
        """See `Navigator`."""
        goal, level = self.goal, self.level
        return Target(lambda rollout: goal.cost(level, rollout.latents), goal.latent(level), level, self.deadline)
