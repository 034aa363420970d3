"""The interface of goals."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from hiwm.levels.distance import distance


class ReachUnknown(ValueError):
    """A goal does not know the cost up to which it counts as reached."""


class Goal(ABC):
    """What each of B episodes is to reach, at every level. Goals are immutable: `select` and `observe` return new ones.

    Attributes:
        part: wanted values of a part of the state, (B, G), NaN for unspecified ones; None for other goals.
        moves: whether `observe` may change the goal during an episode.
    """

    part: Tensor | None = None
    moves: bool = False

    @property
    def kind(self) -> str:
        """What messages call it."""
        return type(self).__name__

    @property
    @abstractmethod
    def size(self) -> int:
        """Episodes B."""

    @abstractmethod
    def cost(self, level: int, latent: Tensor) -> Tensor:
        """Cost of latents of a level, (B, ..., D) -> (B, ...): small near the goal; `reached_cost` gives the threshold."""

    @abstractmethod
    def select(self, rows: Tensor) -> Goal:
        """The goals of some of the episodes, given as indices, (N,)."""

    def latent(self, level: int) -> Tensor | None:
        """The goal as a latent of the level, (B, D); None for one that many latents meet."""
        return None

    def has_latent(self, level: int) -> bool:
        """Whether `nearest` finds a latent for every episode; to be overridden together with it."""
        return self.latent(level) is not None

    def nearest(self, level: int, latent: Tensor) -> Tensor | None:
        """A latent that meets the goal, near the present one, (B, D) -> (B, D); None if the goal knows none."""
        return self.latent(level)

    def violation(self, level: int, latent: Tensor) -> Tensor | None:
        """How deep latents are in a forbidden region, (B, ..., D) -> (B, ...), at most 0 outside; None without one."""
        return None

    def reached_cost(self, level: int) -> Tensor:
        """The cost up to which a goal counts as reached at the level, (B,).

        Raises:
            ReachUnknown: the goal does not know it; `planner.shrinking_horizon` needs it.
        """
        raise ReachUnknown(
            f"planner.shrinking_horizon is true but {self.kind} does not implement reached_cost(level); expected false, or a "
            "goal that does"
        )

    def more_accurate_than_above(self, level: int) -> Tensor:
        """Whether the level reads the goal more accurately than the level above, (B,)."""
        return self.reached_cost(level) < self.reached_cost(level + 1)

    def observe(self, latents: Sequence[Tensor]) -> tuple[Goal, Tensor]:
        """The goal after the episodes were observed at latents of every level, (B, D) each, and where it changed, (B,).

        The same object where it changed for none.
        """
        return self, torch.zeros(self.size, dtype=torch.bool, device=latents[0].device)


def distance_to(target: Tensor, points: Tensor, p: int = 2) -> Tensor:
    """`distance` of points (B, ..., D) from the target of their episode, (B, D) -> (B, ...)."""
    return distance(points, broadcast_to(target, points), p)


def broadcast_to(value: Tensor, points: Tensor) -> Tensor:
    """(B, G) with as many axes in between as (B, ..., D) has."""
    return value.reshape(len(value), *(1 for _ in points.shape[1:-1]), value.shape[-1])


def check_same_size(goals: Sequence[Goal]) -> tuple[Goal, ...]:
    """The goals, if they are for the same number of episodes."""
    sizes = [goal.size for goal in goals]
    if len(set(sizes)) != 1:
        raise ValueError(f"goals for {sizes} episodes; expected at least one, all for the same number of episodes")
    return tuple(goals)


def deepest(violations: Sequence[Tensor | None]) -> Tensor | None:
    """The maximum of several violations, (B, ...) each; None if all are None."""
    known = [violation for violation in violations if violation is not None]
    return torch.stack(known).amax(0) if known else None
