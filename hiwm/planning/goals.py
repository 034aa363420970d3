"""What to reach, at whatever level it is asked, and what to stay out of on the way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hiwm.checks import at_least
from hiwm.planning.readout import Readout


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
    """

    part: Tensor | None = None

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
        """How deep latents are in what is forbidden, (B, ..., D) -> (B, ...), 0 outside; None where nothing is."""
        return None

    def error(self, level: int) -> Tensor:
        """The energy that a reached goal may show at the level, (B,): what the level's measured error amounts to."""
        raise ValueError(f"planner.schedule is 'shrink' but {type(self).__name__} tells no error; allowed: fixed")

    def sharper(self, level: int) -> Tensor:
        """Whether the level sees it more sharply than the one above, (B,)."""
        return self.error(level) < self.error(level + 1)

    def observe(self, latents: Sequence[Tensor]) -> Goal:
        """The goal after the episodes were seen at latents of every level, each (B, D): itself where nothing changed."""
        return self


class ObservationGoal(Goal):
    """All of an observation: the squared distance of latents.

    Args:
        latents: of the observation at every level, bottom first, each (B, D).
        errors: of every level, numbers; see `error`. None where nobody asks.
    """

    def __init__(self, latents: Sequence[Tensor], errors: Sequence[Tensor] | None = None) -> None:
        self.latents = tuple(latents)
        self.errors = errors

    @property
    def size(self) -> int:
        return len(self.latents[0])

    def energy(self, level: int, latent: Tensor) -> Tensor:
        return squared_distance(latent, self.latents[level])

    def keep(self, rows: Tensor) -> ObservationGoal:
        return ObservationGoal([latent[rows] for latent in self.latents], self.errors)

    def latent(self, level: int) -> Tensor:
        return self.latents[level]

    def error(self, level: int) -> Tensor:
        return super().error(level) if self.errors is None else self.errors[level].expand(self.size)

    def sharper(self, level: int) -> Tensor:
        # its steps are shorter; the errors are in units of different latents
        return torch.ones(self.size, dtype=torch.bool, device=self.latents[level].device)


class PartGoal(Goal):
    """A part of an observation: the squared distance, in deviations of the data, of what is read from the latent.

    Args:
        part: what it is to be, (B, G); not a number where it does not matter.
        readouts: of every level, bottom first.
        width: see `PlannerConfig.goal_width`.
    """

    def __init__(self, part: Tensor, readouts: Sequence[Readout], width: float | None = None) -> None:
        _check_size(part, readouts)
        self.part: Tensor = part
        self.readouts = readouts
        self.width = width

    @property
    def size(self) -> int:
        return len(self.part)

    def energy(self, level: int, latent: Tensor) -> Tensor:
        readout = self.readouts[level]
        apart = (readout(latent) - beside(self.part, latent)) / readout.std
        return _energy(torch.where(beside(self.part, latent).isnan(), 0.0, apart), self.width)

    def keep(self, rows: Tensor) -> PartGoal:
        return PartGoal(self.part[rows], self.readouts, self.width)

    def error(self, level: int) -> Tensor:
        return _energy(_error(self.readouts[level], ~self.part.isnan()), self.width)


class Region(Goal):
    """A box in the part of the state that readouts tell: the squared distance to it, in deviations of the data.

    Args:
        low, high: its bounds, (B, G); infinite where there is none.
        readouts: of every level, bottom first.
        width: see `PlannerConfig.goal_width`.
    """

    def __init__(self, low: Tensor, high: Tensor, readouts: Sequence[Readout], width: float | None = None) -> None:
        _check_size(low, readouts)
        if low.shape != high.shape or (low > high).any():
            raise ValueError(f"low {low.tolist()} and high {high.tolist()} are no bounds; allowed: low <= high, (B, G)")
        self.low, self.high = low, high
        self.readouts = readouts
        self.width = width

    @property
    def size(self) -> int:
        return len(self.low)

    def energy(self, level: int, latent: Tensor) -> Tensor:
        readout = self.readouts[level]
        told = readout(latent)
        outside = torch.relu(beside(self.low, latent) - told) + torch.relu(told - beside(self.high, latent))
        return _energy(outside / readout.std, self.width)

    def depth(self, level: int, latent: Tensor) -> Tensor:
        """Distance to the nearest side from within, in deviations of the data, (B, ..., D) -> (B, ...); 0 outside."""
        readout = self.readouts[level]
        told = readout(latent)
        inside = torch.minimum(told - beside(self.low, latent), beside(self.high, latent) - told)
        return torch.relu((inside / readout.std).amin(-1))

    def keep(self, rows: Tensor) -> Region:
        return Region(self.low[rows], self.high[rows], self.readouts, self.width)

    def error(self, level: int) -> Tensor:
        return _energy(_error(self.readouts[level], self.low.isfinite() | self.high.isfinite()), self.width)


class AnyOf(Goal):
    """Whichever is nearest of several goals for the same episodes; what one of them forbids is forbidden on the way to any."""

    def __init__(self, goals: Sequence[Goal]) -> None:
        self.goals = _of_one_size(goals)

    @property
    def size(self) -> int:
        return self.goals[0].size

    def energy(self, level: int, latent: Tensor) -> Tensor:
        return torch.stack([goal.energy(level, latent) for goal in self.goals]).amin(0)

    def keep(self, rows: Tensor) -> AnyOf:
        return AnyOf([goal.keep(rows) for goal in self.goals])

    def error(self, level: int) -> Tensor:
        return torch.stack([goal.error(level) for goal in self.goals]).amin(0)

    def sharper(self, level: int) -> Tensor:
        return torch.stack([goal.sharper(level) for goal in self.goals]).all(0)

    def violation(self, level: int, latent: Tensor) -> Tensor | None:
        return _total([goal.violation(level, latent) for goal in self.goals])

    def observe(self, latents: Sequence[Tensor]) -> AnyOf:
        goals = [goal.observe(latents) for goal in self.goals]
        return self if _same(goals, self.goals) else AnyOf(goals)


class Sum(Goal):
    """Several goals for the same episodes at once.

    Args:
        goals: the goals.
        weights: one each; none for 1.
    """

    def __init__(self, goals: Sequence[Goal], weights: Sequence[float] | None = None) -> None:
        self.goals = _of_one_size(goals)
        self.weights = tuple(1.0 for _ in goals) if weights is None else tuple(weights)
        if len(self.weights) != len(self.goals):
            raise ValueError(f"{len(self.weights)} weights for {len(self.goals)} goals; allowed: one each")

    @property
    def size(self) -> int:
        return self.goals[0].size

    def energy(self, level: int, latent: Tensor) -> Tensor:
        energies = [w * goal.energy(level, latent) for w, goal in zip(self.weights, self.goals, strict=True)]
        return torch.stack(energies).sum(0)

    def keep(self, rows: Tensor) -> Sum:
        return Sum([goal.keep(rows) for goal in self.goals], self.weights)

    def error(self, level: int) -> Tensor:
        return torch.stack([w * goal.error(level) for w, goal in zip(self.weights, self.goals, strict=True)]).sum(0)

    def sharper(self, level: int) -> Tensor:
        return torch.stack([goal.sharper(level) for goal in self.goals]).all(0)

    def violation(self, level: int, latent: Tensor) -> Tensor | None:
        return _total([goal.violation(level, latent) for goal in self.goals])

    def observe(self, latents: Sequence[Tensor]) -> Sum:
        goals = [goal.observe(latents) for goal in self.goals]
        return self if _same(goals, self.goals) else Sum(goals, self.weights)


class InOrder(Goal):
    """Waypoints: the first goal until it is reached, then the next; the last one stays. A `KeepOut` counts while it is next.

    Args:
        goals: the waypoints, for the same episodes.
        tolerance: energy at which one counts as reached, in the goals' own terms: with `goal_width` a logarithm.
        judge: level whose latents tell; 0, which sees most sharply.
        at: waypoint of each episode, (B,); none for the first.
    """

    def __init__(self, goals: Sequence[Goal], tolerance: float, judge: int = 0, at: Tensor | None = None) -> None:
        self.goals = _of_one_size(goals)
        self.tolerance = tolerance
        self.judge = judge
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
        return InOrder([goal.keep(rows) for goal in self.goals], self.tolerance, self.judge, self.at[rows.cpu()])

    def error(self, level: int) -> Tensor:
        return self._now([goal.error(level) for goal in self.goals])

    def sharper(self, level: int) -> Tensor:
        return self._now([goal.sharper(level) for goal in self.goals])

    def violation(self, level: int, latent: Tensor) -> Tensor | None:
        violations = [goal.violation(level, latent) for goal in self.goals]
        if all(violation is None for violation in violations):
            return None
        nothing = latent.new_zeros(latent.shape[:-1])
        return self._now([nothing if violation is None else violation for violation in violations])

    def observe(self, latents: Sequence[Tensor]) -> InOrder:
        reached = (self.energy(self.judge, latents[self.judge]) <= self.tolerance).cpu()
        at = (self.at + reached).clamp(max=len(self.goals) - 1)
        goals = [goal.observe(latents) for goal in self.goals]
        unchanged = _same(goals, self.goals) and torch.equal(at, self.at)
        return self if unchanged else InOrder(goals, self.tolerance, self.judge, at)

    def _now(self, values: Sequence[Tensor]) -> Tensor:
        """Of every waypoint's (B, ...) each episode's present one's."""
        every = torch.stack(list(values))
        return every[self.at.to(every.device), torch.arange(self.size, device=every.device)]


class KeepOut(Goal):
    """A goal, and a region not to enter on the way.

    Args:
        goal: to reach.
        region: forbidden, for the same episodes.
        margin: added on every side, in deviations of the data; for the readouts err.
    """

    def __init__(self, goal: Goal, region: Region, margin: float = 0.0) -> None:
        if not isinstance(region, Region):
            raise ValueError(
                f"the region to keep out of is a {type(region).__name__}; allowed: a Region (`Agent.region`)"
            )
        at_least("KeepOut.", 0, margin=margin)
        _of_one_size([goal, region])
        self.goal = goal
        self.region = region
        self.margin = margin
        self.part = goal.part
        #: the region with its margin, for every level
        self.wider = [_widened(region, margin * readout.std) for readout in region.readouts]

    @property
    def size(self) -> int:
        return self.goal.size

    def energy(self, level: int, latent: Tensor) -> Tensor:
        return self.goal.energy(level, latent)

    def latent(self, level: int) -> Tensor | None:
        return self.goal.latent(level)

    def keep(self, rows: Tensor) -> KeepOut:
        return KeepOut(self.goal.keep(rows), self.region.keep(rows), self.margin)

    def error(self, level: int) -> Tensor:
        return self.goal.error(level)

    def sharper(self, level: int) -> Tensor:
        return self.goal.sharper(level)

    def violation(self, level: int, latent: Tensor) -> Tensor:
        entered = _total([self.wider[level].depth(level, latent), self.goal.violation(level, latent)])
        assert entered is not None, "the region always answers"
        return entered

    def observe(self, latents: Sequence[Tensor]) -> KeepOut:
        goal = self.goal.observe(latents)
        return self if goal is self.goal else KeepOut(goal, self.region, self.margin)


def _widened(region: Region, margin: Tensor) -> Region:
    return Region(region.low - margin, region.high + margin, region.readouts)


def squared_distance(points: Tensor, target: Tensor) -> Tensor:
    """(B, ..., D), (B, D) -> (B, ...)."""
    return (points - beside(target, points)).square().sum(-1)


def _energy(apart: Tensor, width: float | None) -> Tensor:
    """Of distances of the part's numbers, in deviations, (..., G) -> (...)."""
    squared = apart.square()
    return (squared if width is None else torch.log1p(squared / width**2)).sum(-1)


def _check_size(part: Tensor, readouts: Sequence[Readout]) -> None:
    size = len(readouts[0].std)
    if part.dim() != 2 or part.shape[1] != size:
        raise ValueError(f"a goal of the shape {tuple(part.shape)}; allowed: (batch, {size}), what the readouts tell")


def _error(readout: Readout, matters: Tensor) -> Tensor:
    """Error of foreseeing what matters, in deviations of the data; 0 of the rest, (B, G)."""
    return torch.where(matters, readout.foreseen / readout.std, 0.0)


def beside(value: Tensor, points: Tensor) -> Tensor:
    """(B, G) with as many axes in between as (B, ..., D) has."""
    return value.reshape(len(value), *(1 for _ in points.shape[1:-1]), value.shape[-1])


def _of_one_size(goals: Sequence[Goal]) -> tuple[Goal, ...]:
    sizes = [goal.size for goal in goals]
    if len(set(sizes)) != 1:
        raise ValueError(f"goals for {sizes} episodes; allowed: at least one, all for the same number of episodes")
    return tuple(goals)


def _same(now: Sequence[Goal], before: Sequence[Goal]) -> bool:
    return all(a is b for a, b in zip(now, before, strict=True))


def _total(violations: Sequence[Tensor | None]) -> Tensor | None:
    there = [violation for violation in violations if violation is not None]
    return torch.stack(there).sum(0) if there else None
