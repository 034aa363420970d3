"""Goals that say what is to be seen: all of an observation, a part of it, or anywhere in a box."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hiwm.heads.state_readout import StateReadout
from hiwm.planning.goals.goal import Goal, beside, squared_distance


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

    def __init__(self, part: Tensor, readouts: Sequence[StateReadout], width: float | None = None) -> None:
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

    def __init__(self, low: Tensor, high: Tensor, readouts: Sequence[StateReadout], width: float | None = None) -> None:
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

    def depth(self, level: int, latent: Tensor, margin: float = 0.0) -> Tensor:
        """See `Zone`: the distance to the nearest side."""
        readout = self.readouts[level]
        told = readout(latent)
        inside = torch.minimum(told - beside(self.low, latent), beside(self.high, latent) - told)
        return (inside / readout.std).amin(-1) + margin

    def keep(self, rows: Tensor) -> Region:
        return Region(self.low[rows], self.high[rows], self.readouts, self.width)

    def error(self, level: int) -> Tensor:
        return _energy(_error(self.readouts[level], self.low.isfinite() | self.high.isfinite()), self.width)


def _energy(apart: Tensor, width: float | None) -> Tensor:
    """Of distances of the part's numbers, in deviations, (..., G) -> (...)."""
    squared = apart.square()
    return (squared if width is None else torch.log1p(squared / width**2)).sum(-1)


def _check_size(part: Tensor, readouts: Sequence[StateReadout]) -> None:
    size = len(readouts[0].std)
    if part.dim() != 2 or part.shape[1] != size:
        raise ValueError(f"a goal of the shape {tuple(part.shape)}; allowed: (batch, {size}), what the readouts tell")


def _error(readout: StateReadout, matters: Tensor) -> Tensor:
    """Error of foreseeing what matters, in deviations of the data; 0 of the rest, (B, G)."""
    return torch.where(matters, readout.prediction_error / readout.std, 0.0)
