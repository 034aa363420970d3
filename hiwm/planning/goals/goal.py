"""What every goal must answer, at whatever level it is asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Aim:
    """What a level plans towards.

    Args:
        latent: to reach, (B, D of `level`); None for a goal that many latents meet.
        level: in whose latent space it lies: the one that plans, or the one above.
        energy: how far latents of the level that plans are from it, (B, S, H, D) -> (B, S, H).
    """

    latent: Tensor | None
    level: int
    energy: Callable[[Tensor], Tensor]


class Goal(ABC):
    """What each of B episodes is to reach. Goals are values: `keep` and `observe` answer new ones.

    Attributes:
        part: what a part of the state is to be, (B, G), not a number where it does not matter; None for other goals.
        moves: whether what is seen on the way may change the goal.
    """

    part: Tensor | None = None
    moves: bool = False

    @property
    @abstractmethod
    def size(self) -> int:
        """Episodes B."""

    @abstractmethod
    def energy(self, level: int, latent: Tensor) -> Tensor:
        """How far latents of a level are from it, (B, ..., D) -> (B, ...); 0 where it is reached."""

    @abstractmethod
    def keep(self, rows: Tensor) -> Goal:
        """The goals of some of the episodes."""

    def latent(self, level: int) -> Tensor | None:
        """The goal as a latent of the level, (B, D); None for one that many latents meet."""
        return None

    def violation(self, level: int, latent: Tensor) -> Tensor | None:
        """How deep latents are in what is forbidden, (B, ..., D) -> (B, ...), at most 0 outside; None where nothing is."""
        return None

    def error(self, level: int) -> Tensor:
        """The energy that a reached goal may show at the level, (B,): what the level's measured error amounts to."""
        raise ValueError(f"planner.schedule is 'shrink' but {type(self).__name__} tells no error; allowed: fixed")

    def sharper(self, level: int) -> Tensor:
        """Whether the level sees it more sharply than the one above, (B,)."""
        return self.error(level) < self.error(level + 1)

    def observe(self, latents: Sequence[Tensor]) -> tuple[Goal, Tensor]:
        """The goal after the episodes were seen at latents of every level, each (B, D), and for which of them it changed, (B,)."""
        return self, torch.zeros(self.size, dtype=torch.bool, device=latents[0].device)


def squared_distance(points: Tensor, target: Tensor) -> Tensor:
    """(B, ..., D), (B, D) -> (B, ...)."""
    return (points - beside(target, points)).square().sum(-1)


def beside(value: Tensor, points: Tensor) -> Tensor:
    """(B, G) with as many axes in between as (B, ..., D) has."""
    return value.reshape(len(value), *(1 for _ in points.shape[1:-1]), value.shape[-1])


def of_one_size(goals: Sequence[Goal]) -> tuple[Goal, ...]:
    """The goals, if they are for the same number of episodes."""
    sizes = [goal.size for goal in goals]
    if len(set(sizes)) != 1:
        raise ValueError(f"goals for {sizes} episodes; allowed: at least one, all for the same number of episodes")
    return tuple(goals)


def worst(violations: Sequence[Tensor | None]) -> Tensor | None:
    """The deepest of several goals', (B, ...) each; None where nothing is forbidden."""
    there = [violation for violation in violations if violation is not None]
    return torch.stack(there).amax(0) if there else None
