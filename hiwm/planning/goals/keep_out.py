"""What to stay out of on the way to a goal."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from hiwm.checks import at_least
from hiwm.heads.state_readout import StateReadout
from hiwm.planning.goals.goal import Goal, of_one_size, worst


class Zone(Protocol):
    """Where not to be, told from what readouts say of any level's latents: a `Region`, or one of those below."""

    @abstractmethod
    def depth(self, level: int, latent: Tensor, margin: float = 0.0) -> Tensor:
        """How deep latents are in it and in the margin around it, in deviations of the data, (B, ..., D) -> (B, ...).

        Outside at most 0: how far outside, where that is known.
        """
        ...

    @abstractmethod
    def keep(self, rows: Tensor) -> Zone:
        """For some of the episodes."""
        ...


class LabelledStates:
    """Whatever is nearer to a state that was labelled forbidden than to any that was labelled allowed.

    Half of the difference of the two distances is what is left to the border at least, and its depth here.

    Args:
        states: of the part that readouts tell, (N, G).
        forbidden: their labels, (N,) bool; both must occur.
        readouts: of every level, bottom first.
    """

    def __init__(self, states: Tensor, forbidden: Tensor, readouts: Sequence[StateReadout]) -> None:
        if states.shape != (len(forbidden), len(readouts[0].std)) or forbidden.dtype != torch.bool:
            raise ValueError(
                f"states of the shape {tuple(states.shape)} with labels of the shape {tuple(forbidden.shape)}, {forbidden.dtype}; "
                f"allowed: (N, {len(readouts[0].std)}) with (N,) of true (forbidden) and false"
            )
        if forbidden.all() or not forbidden.any():
            raise ValueError("all states have the same label; allowed: some that are forbidden and some that are not")
        self.states, self.labels = states, forbidden
        self.readouts = readouts

    def depth(self, level: int, latent: Tensor, margin: float = 0.0) -> Tensor:
        """See `Zone`."""
        readout = self.readouts[level]
        distance = torch.cdist(readout(latent).flatten(0, -2) / readout.std, self.states / readout.std)  # (..., N)
        allowed, forbidden = (distance[:, label].amin(1) for label in (~self.labels, self.labels))
        return ((allowed - forbidden) / 2 + margin).reshape(latent.shape[:-1])

    def keep(self, rows: Tensor) -> LabelledStates:
        """The same: it is of all episodes."""
        return self


class Where:
    """Wherever a predicate on what readouts tell holds.

    Args:
        predicate: columns of the part, name -> (..., *shape), in their own units -> (...): bool, or a number that is positive
            inside and the larger the deeper; a search is led out of a number more easily. The margin is added to a number, in
            its unit.
        columns: name -> shape, side by side in what the readouts tell.
        readouts: of every level, bottom first.
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
        """See `Zone`."""
        told = self.readouts[level](latent)
        sizes = [torch.Size(shape).numel() for shape in self.columns.values()]
        parts = {
            name: part.unflatten(-1, shape) if shape else part.squeeze(-1)
            for (name, shape), part in zip(self.columns.items(), told.split(sizes, -1), strict=True)
        }
        try:
            inside = self.predicate(parts)
        except KeyError as error:
            raise ValueError(
                f"the predicate asks for {error}; allowed: {sorted(parts)}, what goals are about"
            ) from error
        if inside.shape != latent.shape[:-1]:
            raise ValueError(
                f"the predicate answers with the shape {tuple(inside.shape)}; allowed: {tuple(latent.shape[:-1])}, one for each state"
            )
        if inside.dtype == torch.bool:
            if margin:
                raise ValueError(f"KeepOut.margin is {margin}; allowed: 0, for the predicate answers yes or no")
            return 2 * inside.to(told) - 1
        return inside + margin

    def keep(self, rows: Tensor) -> Where:
        """The same: it is of all episodes."""
        return self


class KeepOut(Goal):
    """A goal, and a zone not to enter on the way.

    Args:
        goal: to reach.
        zone: forbidden; a `Region` must be for the same episodes.
        margin: added around it, in deviations of the data; for the readouts err.
    """

    def __init__(self, goal: Goal, zone: Zone, margin: float = 0.0) -> None:
        if not hasattr(zone, "depth"):
            raise ValueError(
                f"what to keep out of is a {type(zone).__name__}; allowed: `Agent.region`, `Agent.labelled` or `Agent.where`"
            )
        at_least("KeepOut.", 0, margin=margin)
        if isinstance(zone, Goal):
            of_one_size([goal, zone])
        self.goal = goal
        self.zone = zone
        self.margin = margin
        self.part, self.moves = goal.part, goal.moves

    @property
    def size(self) -> int:
        return self.goal.size

    def energy(self, level: int, latent: Tensor) -> Tensor:
        return self.goal.energy(level, latent)

    def latent(self, level: int) -> Tensor | None:
        return self.goal.latent(level)

    def keep(self, rows: Tensor) -> KeepOut:
        return KeepOut(self.goal.keep(rows), self.zone.keep(rows), self.margin)

    def error(self, level: int) -> Tensor:
        return self.goal.error(level)

    def sharper(self, level: int) -> Tensor:
        return self.goal.sharper(level)

    def violation(self, level: int, latent: Tensor) -> Tensor:
        entered = worst([self.zone.depth(level, latent, self.margin), self.goal.violation(level, latent)])
        assert entered is not None, "the zone always answers"
        return entered

    def observe(self, latents: Sequence[Tensor]) -> tuple[Goal, Tensor]:
        goal, changed = self.goal.observe(latents)
        return KeepOut(goal, self.zone, self.margin) if changed.any() else self, changed
