"""Goals that describe an observation: all of it, a part of it, or a box that holds a part of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hiwm.heads.state_readout import StateReadout
from hiwm.planning.goals.goal import Goal, ReachUnknown, broadcast_to, distance_to
from hiwm.planning.goals.regions import Region


class ObservationGoal(Goal):
    """All of an observation: the distance between latents.

    Args:
        latents: latents of the observation at every level, bottom first, each (B, D).
        errors: what `reached_cost` returns for each level; None without `planner.shrinking_horizon`.
        p: power of the distance of each level (see `hiwm.levels.distance`); None: 2.
    """

    def __init__(
        self, latents: Sequence[Tensor], errors: Sequence[Tensor] | None = None, p: Sequence[int] | None = None
    ) -> None:
        self.latents = tuple(latents)
        self.errors = errors
        self.p = (2,) * len(latents) if p is None else p

    @property
    def size(self) -> int:
        return len(self.latents[0])

    def cost(self, level: int, latent: Tensor) -> Tensor:
        return distance_to(self.latents[level], latent, self.p[level])

    def select(self, rows: Tensor) -> ObservationGoal:
        return ObservationGoal([latent[rows] for latent in self.latents], self.errors, self.p)

    def latent(self, level: int) -> Tensor:
        return self.latents[level]

    def reached_cost(self, level: int) -> Tensor:
        if self.errors is None:
            raise ReachUnknown(
                "planner.shrinking_horizon is true but this ObservationGoal has no `errors`; expected false, a goal on goal.columns, "
                "or one that `Agent.goal` made"
            )
        return self.errors[level].expand(self.size)

    def more_accurate_than_above(self, level: int) -> Tensor:
        # steps of the lower level are shorter; the errors of two levels have different units
        return torch.ones(self.size, dtype=torch.bool, device=self.latents[level].device)


class PartGoal(Goal):
    """A part of an observation: squared distance of the readout, in standard deviations of the data.

    Args:
        part: wanted values, (B, G); NaN for unspecified ones.
        readouts: state readouts of all levels, bottom first.
        cauchy_scale: see `PlannerConfig`.
    """

    def __init__(self, part: Tensor, readouts: Sequence[StateReadout], cauchy_scale: float | None = None) -> None:
        _check_size(part, readouts)
        self.part: Tensor = part
        self.readouts = readouts
        self.cauchy_scale = cauchy_scale

    @property
    def size(self) -> int:
        return len(self.part)

    def cost(self, level: int, latent: Tensor) -> Tensor:
        readout = self.readouts[level]
        distance = (readout(latent) - broadcast_to(self.part, latent)) / readout.std
        return _cost(torch.where(broadcast_to(self.part, latent).isnan(), 0.0, distance), self.cauchy_scale)

    def select(self, rows: Tensor) -> PartGoal:
        return PartGoal(self.part[rows], self.readouts, self.cauchy_scale)

    def reached_cost(self, level: int) -> Tensor:
        return _cost(_error(self.readouts[level], ~self.part.isnan()), self.cauchy_scale)


class BoxRegion(Goal, Region):
    """A box in the part of the state that readouts predict: squared distance to it, in standard deviations of the data.

    Args:
        low: lower bounds of the box, (B, G); -inf where there is none.
        high: upper bounds, likewise; inf where there is none.
        readouts: state readouts of all levels, bottom first.
        cauchy_scale: see `PlannerConfig`.
    """

    def __init__(
        self, low: Tensor, high: Tensor, readouts: Sequence[StateReadout], cauchy_scale: float | None = None
    ) -> None:
        _check_size(low, readouts)
        if low.shape != high.shape or (low > high).any():
            raise ValueError(
                f"low {low.tolist()} and high {high.tolist()} are not bounds; expected low <= high, (B, G)"
            )
        self.low, self.high = low, high
        self.readouts = readouts
        self.cauchy_scale = cauchy_scale

    @property
    def size(self) -> int:
        return len(self.low)

    def cost(self, level: int, latent: Tensor) -> Tensor:
        readout = self.readouts[level]
        prediction = readout(latent)
        outside = torch.relu(broadcast_to(self.low, latent) - prediction) + torch.relu(
            prediction - broadcast_to(self.high, latent)
        )
        return _cost(outside / readout.std, self.cauchy_scale)

    def depth(self, level: int, latent: Tensor, margin: float = 0.0) -> Tensor:
        # the distance to the nearest side
        readout = self.readouts[level]
        prediction = readout(latent)
        inside = torch.minimum(
            prediction - broadcast_to(self.low, latent), broadcast_to(self.high, latent) - prediction
        )
        return (inside / readout.std).amin(-1) + margin

    def select(self, rows: Tensor) -> BoxRegion:
        return BoxRegion(self.low[rows], self.high[rows], self.readouts, self.cauchy_scale)

    def reached_cost(self, level: int) -> Tensor:
        return _cost(_error(self.readouts[level], self.low.isfinite() | self.high.isfinite()), self.cauchy_scale)


def _cost(distance: Tensor, cauchy_scale: float | None) -> Tensor:
    """Cost of distances in standard deviations, (..., G) -> (...)."""
    squared = distance.square()
    return (squared if cauchy_scale is None else torch.log1p(squared / cauchy_scale**2)).sum(-1)


def _check_size(part: Tensor, readouts: Sequence[StateReadout]) -> None:
    size = len(readouts[0].std)
    if part.dim() != 2 or part.shape[1] != size:
        raise ValueError(
            f"the goal has the shape {tuple(part.shape)}; expected (batch, {size}), the size of the readouts"
        )


def _error(readout: StateReadout, matters: Tensor) -> Tensor:
    """Error of the readout of predicted latents where it matters, in standard deviations of the data; 0 elsewhere, (B, G)."""
    return torch.where(matters, readout.prediction_error / readout.std, 0.0)
