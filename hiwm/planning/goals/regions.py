"""Regions to stay out of on the way to a goal."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from hiwm.checks import at_least
from hiwm.heads.state_readout import StateReadout
from hiwm.levels.standardize import split_columns
from hiwm.planning.goals.goal import Goal, check_same_size, deepest


class Region(ABC):
    """A set of states in the part of the state that readouts predict."""

    @abstractmethod
    def depth(self, level: int, latent: Tensor, margin: float = 0.0) -> Tensor:
        """How deep latents are in the region and in the margin around it, in the unit of the region, (B, ..., D) -> (B, ...).

        Outside, the depth is at most 0. A region that measures distances returns less the farther outside the latent is.
        """

    @abstractmethod
    def select(self, rows: Tensor) -> Region:
        """The regions of some of the episodes, given as indices, (N,)."""


class LabelledRegion(Region):
    """Everything that is nearer to a state labelled forbidden than to any that is not.

    The depth is half of the difference of the two distances, in standard deviations of the data. It is a lower bound of the
    distance to the border.

    Args:
        states: values of the part that readouts predict, (N, G).
        forbidden: labels of the states, (N,) bool; both must occur.
        readouts: state readouts of all levels, bottom first.
    """

    def __init__(self, states: Tensor, forbidden: Tensor, readouts: Sequence[StateReadout]) -> None:
        if states.shape != (len(forbidden), len(readouts[0].std)) or forbidden.dtype != torch.bool:
            raise ValueError(
                f"states of the shape {tuple(states.shape)} with labels of the shape {tuple(forbidden.shape)}, {forbidden.dtype}; "
                f"expected (N, {len(readouts[0].std)}) with (N,) booleans, true for forbidden"
            )
        if forbidden.all() or not forbidden.any():
            raise ValueError("all states have the same label; expected some that are forbidden and some that are not")
        self.states = states
        # rows of the allowed and of the forbidden states; a mask as an index would wait for a GPU at every use
        self.allowed, self.forbidden = (~forbidden).nonzero()[:, 0], forbidden.nonzero()[:, 0]
        self.readouts = readouts

    def depth(self, level: int, latent: Tensor, margin: float = 0.0) -> Tensor:
        readout = self.readouts[level]
        distance = torch.cdist(readout(latent).flatten(0, -2) / readout.std, self.states / readout.std)  # (..., N)
        allowed, forbidden = (distance[:, rows].amin(1) for rows in (self.allowed, self.forbidden))
        return ((allowed - forbidden) / 2 + margin).reshape(latent.shape[:-1])

    def select(self, rows: Tensor) -> LabelledRegion:
        return self  # all episodes share it


class _Columns(dict[str, Tensor]):
    """Columns by name; an error names those that there are. A KeyError within a predicate stays what it is."""

    def __missing__(self, name: str) -> Tensor:
        raise ValueError(f"the predicate reads {name!r}; expected one of {sorted(self)}, the columns in goal.columns")


class PredicateRegion(Region):
    """Everywhere that a predicate on the readouts holds.

    Args:
        predicate: columns of the part by name, (..., *shape) each, in their own units -> (...): bool, or a number that is
            positive inside and grows with the depth. A number guides a search out of the region better than a bool. The margin
            has the unit of that number.
        columns: name -> shape of the columns, side by side in the readouts.
        readouts: state readouts of all levels, bottom first.
    """

    def __init__(
        self,
        predicate: Callable[[Mapping[str, Tensor]], Tensor],
        columns: Mapping[str, Sequence[int]],
        readouts: Sequence[StateReadout],
    ) -> None:
        self.predicate = predicate
        self.columns = {name: tuple(shape) for name, shape in columns.items()}
        self.readouts = readouts

    def depth(self, level: int, latent: Tensor, margin: float = 0.0) -> Tensor:
        prediction = self.readouts[level](latent)
        inside = self.predicate(_Columns(split_columns(prediction, self.columns)))
        if inside.shape != latent.shape[:-1]:
            raise ValueError(
                f"the predicate returns the shape {tuple(inside.shape)}; expected {tuple(latent.shape[:-1])}, one value per state"
            )
        if inside.dtype == torch.bool:
            if margin:
                raise ValueError(f"KeepOut.margin is {margin}; expected 0, because the predicate returns booleans")
            return 2 * inside.to(prediction) - 1
        return inside + margin

    def select(self, rows: Tensor) -> PredicateRegion:
        return self  # all episodes share it


class KeepOut(Goal):
    """A goal, and a region not to enter on the way to it.

    Args:
        goal: goal to reach.
        region: forbidden region; a `BoxRegion` must be for the same episodes.
        margin: width of a margin around the region, in the unit of the region, because readouts are not exact. The unit is
            standard deviations of the data, except for a `PredicateRegion`.
    """

    def __init__(self, goal: Goal, region: Region, margin: float = 0.0) -> None:
        if not isinstance(region, Region):
            raise ValueError(
                f"the region to keep out of is a {type(region).__name__}; expected a Region: what `Agent.region`, `Agent.labelled` or `Agent.where` return"
            )
        at_least(0, margin=margin)
        if isinstance(region, Goal):
            check_same_size([goal, region])
        self.goal = goal
        self.region = region
        self.margin = margin
        self.part, self.moves = goal.part, goal.moves

    @property
    def size(self) -> int:
        return self.goal.size

    def cost(self, level: int, latent: Tensor) -> Tensor:
        return self.goal.cost(level, latent)

    def latent(self, level: int) -> Tensor | None:
        return self.goal.latent(level)

    def has_latent(self, level: int) -> bool:
        return self.goal.has_latent(level)

    def nearest(self, level: int, latent: Tensor) -> Tensor | None:
        return self.goal.nearest(level, latent)

    def select(self, rows: Tensor) -> KeepOut:
        return KeepOut(self.goal.select(rows), self.region.select(rows), self.margin)

    def reached_cost(self, level: int) -> Tensor:
        return self.goal.reached_cost(level)

    def more_accurate_than_above(self, level: int) -> Tensor:
        return self.goal.more_accurate_than_above(level)

    def violation(self, level: int, latent: Tensor) -> Tensor:
        violation = deepest([self.region.depth(level, latent, self.margin), self.goal.violation(level, latent)])
        assert violation is not None, "a region has a depth"
        return violation

    def observe(self, latents: Sequence[Tensor]) -> tuple[Goal, Tensor]:
        goal, changed = self.goal.observe(latents)
        return self if goal is self.goal else KeepOut(goal, self.region, self.margin), changed
