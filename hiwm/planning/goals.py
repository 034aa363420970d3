"""What to reach, at whatever level it is asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from hiwm.planning.readout import Readout


class Goal(ABC):
    """What each of B episodes is to reach."""

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


class ObservationGoal(Goal):
    """All of an observation: the squared distance of latents.

    Args:
        latents: of the observation at every level, bottom first, each (B, D).
    """

    def __init__(self, latents: Sequence[Tensor]) -> None:
        self.latents = tuple(latents)

    @property
    def size(self) -> int:
        return len(self.latents[0])

    def energy(self, level: int, latent: Tensor) -> Tensor:
        return squared_distance(latent, self.latents[level])

    def keep(self, rows: Tensor) -> ObservationGoal:
        return ObservationGoal([latent[rows] for latent in self.latents])

    def latent(self, level: int) -> Tensor:
        return self.latents[level]


class PartGoal(Goal):
    """A part of an observation: the squared distance, in deviations of the data, of what is read from the latent.

    Args:
        value: what the part is to be, (B, G).
        readouts: of every level, bottom first.
    """

    def __init__(self, value: Tensor, readouts: Sequence[Readout]) -> None:
        self.value = value
        self.readouts = readouts

    @property
    def size(self) -> int:
        return len(self.value)

    def energy(self, level: int, latent: Tensor) -> Tensor:
        readout = self.readouts[level]
        return squared_distance(readout(latent) / readout.std, self.value / readout.std)

    def keep(self, rows: Tensor) -> PartGoal:
        return PartGoal(self.value[rows], self.readouts)


def squared_distance(points: Tensor, target: Tensor) -> Tensor:
    """(B, ..., D), (B, D) -> (B, ...)."""
    between = (1,) * (points.dim() - 2)
    return (points - target.reshape(len(target), *between, -1)).square().sum(-1)
