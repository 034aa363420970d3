"""Goals made of other goals: any of them, all of them at once, one after another."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from hiwm.planning.goals.goal import Goal, of_one_size, worst

JUDGE = 0  # level whose latents tell whether a waypoint is reached: it sees most sharply


class Several(Goal):
    """Several goals for the same episodes; what one of them forbids is forbidden for all."""

    def __init__(self, goals: Sequence[Goal]) -> None:
        self.goals = of_one_size(goals)
        self.moves = any(goal.moves for goal in self.goals)

    @property
    def size(self) -> int:
        return self.goals[0].size

    @abstractmethod
    def of(self, goals: Sequence[Goal]) -> Goal:
        """The same of other goals."""

    def keep(self, rows: Tensor) -> Goal:
        return self.of([goal.keep(rows) for goal in self.goals])

    def sharper(self, level: int) -> Tensor:
        return torch.stack([goal.sharper(level) for goal in self.goals]).all(0)

    def violation(self, level: int, latent: Tensor) -> Tensor | None:
        return worst([goal.violation(level, latent) for goal in self.goals])

    def observe(self, latents: Sequence[Tensor]) -> tuple[Goal, Tensor]:
        goals, changes = zip(*(goal.observe(latents) for goal in self.goals), strict=True)
        changed = torch.stack(changes).any(0)
        return self.of(goals) if changed.any() else self, changed


class AnyOf(Several):
    """Whichever is nearest."""

    def of(self, goals: Sequence[Goal]) -> AnyOf:
        return AnyOf(goals)

    def energy(self, level: int, latent: Tensor) -> Tensor:
        return torch.stack([goal.energy(level, latent) for goal in self.goals]).amin(0)

    def error(self, level: int) -> Tensor:
        return torch.stack([goal.error(level) for goal in self.goals]).amin(0)


class Sum(Several):
    """All of them at once.

    Args:
        goals: the goals.
        weights: one each; none for 1.
    """

    def __init__(self, goals: Sequence[Goal], weights: Sequence[float] | None = None) -> None:
        super().__init__(goals)
        self.weights = tuple(1.0 for _ in goals) if weights is None else tuple(weights)
        if len(self.weights) != len(self.goals):
            raise ValueError(f"{len(self.weights)} weights for {len(self.goals)} goals; allowed: one each")

    def energy(self, level: int, latent: Tensor) -> Tensor:
        return self._weighed([goal.energy(level, latent) for goal in self.goals])

    def error(self, level: int) -> Tensor:
        return self._weighed([goal.error(level) for goal in self.goals])

    def of(self, goals: Sequence[Goal]) -> Sum:
        return Sum(goals, self.weights)

    def _weighed(self, values: Sequence[Tensor]) -> Tensor:
        return torch.stack([w * value for w, value in zip(self.weights, values, strict=True)]).sum(0)


class InOrder(Goal):
    """Waypoints: the first goal until it is reached, then the next; the last one stays. A `KeepOut` counts while it is next.

    Args:
        goals: the waypoints, for the same episodes.
        tolerance: energy at which one counts as reached, in the goals' own terms at level 0: with `goal_width` a logarithm.
        at: waypoint of each episode, (B,); none for the first.
    """

    moves = True

    def __init__(self, goals: Sequence[Goal], tolerance: float, at: Tensor | None = None) -> None:
        self.goals = of_one_size(goals)
        if any(goal.moves for goal in self.goals):
            raise ValueError("a waypoint holds waypoints itself (InOrder); allowed: one list of all of them")
        self.tolerance = tolerance
        self.at = torch.zeros(self.size, dtype=torch.long) if at is None else at
        parts = [goal.part for goal in self.goals]
        self.part = (
            None if any(part is None for part in parts) else self._now([part for part in parts if part is not None])
        )

    @property
    def size(self) -> int:
        return self.goals[0].size

    def energy(self, level: int, latent: Tensor) -> Tensor:
        return self._now([goal.energy(level, latent) for goal in self.goals])

    def latent(self, level: int) -> Tensor | None:
        latents = [goal.latent(level) for goal in self.goals]
        known = [latent for latent in latents if latent is not None]
        return self._now(known) if len(known) == len(latents) else None

    def keep(self, rows: Tensor) -> InOrder:
        return InOrder([goal.keep(rows) for goal in self.goals], self.tolerance, self.at[rows.cpu()])

    def error(self, level: int) -> Tensor:
        return self._now([goal.error(level) for goal in self.goals])

    def sharper(self, level: int) -> Tensor:
        return self._now([goal.sharper(level) for goal in self.goals])

    def violation(self, level: int, latent: Tensor) -> Tensor | None:
        violations = [goal.violation(level, latent) for goal in self.goals]
        if all(violation is None for violation in violations):
            return None
        nothing = latent.new_full(latent.shape[:-1], -torch.inf)
        return self._now([nothing if violation is None else violation for violation in violations])

    def observe(self, latents: Sequence[Tensor]) -> tuple[Goal, Tensor]:
        reached = self.energy(JUDGE, latents[JUDGE]) <= self.tolerance
        changed = reached & (self.at.to(reached.device) < len(self.goals) - 1)
        if not changed.any():
            return self, changed
        return InOrder(self.goals, self.tolerance, self.at + changed.to(self.at.device)), changed

    def _now(self, values: Sequence[Tensor]) -> Tensor:
        """Of every waypoint's (B, ...) each episode's present one's."""
        every = torch.stack(list(values))
        return every[self.at.to(every.device), torch.arange(self.size, device=every.device)]
