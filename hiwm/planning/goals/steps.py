"""Goals that many latents meet, at metric levels: how many steps away the nearest of them is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy

import torch
from torch import Tensor

from hiwm.planning.goals.combined import CompositeGoal, Waypoints
from hiwm.planning.goals.goal import Goal, ReachUnknown
from hiwm.planning.goals.regions import KeepOut

MOST = 64  # latents that stand for a goal
AT_ONCE = 16  # episodes whose real latents are compared with their goals at once

# level, latents (B, K, D) and a part of the state (B, G), NaN for unspecified values -> the latents with this part; None if they do not hold it
WritePart = Callable[[int, Tensor, Tensor], Tensor | None]


class StepsToGoal(Goal):
    """A goal that many latents meet, in steps: at metric levels it costs the distance to the nearest known latent that meets it.

    The goal's own cost, such as the distance between two positions, ignores obstacles on the way. Other levels plan by it. The real latents are
    those whose own cost is at most `reached_cost`, 64 at most. Where there is none, those of least cost with the goal written into the
    inputs they hold, or else the one of least cost. Forbidden ones do not count; where all are forbidden, the goal's own cost stays.

    Args:
        goal: what is to be reached.
        real: real latents of each metric level, level -> (N, D).
        reached: steps within which the goal counts as reached at each of these levels, level -> ().
        write: writes the goal into the inputs that latents hold.
    """

    def __init__(self, goal: Goal, real: Mapping[int, Tensor], reached: Mapping[int, Tensor], write: WritePart) -> None:
        self.goal, self.real, self.reached, self.write = goal, real, reached, write
        self.part, self.moves = goal.part, goal.moves
        #: own cost up to which the goal counts as reached, level -> (B,)
        self.own = {level: _reached_cost(goal, level, latents.device) for level, latents in real.items()}
        #: latents that stand for the goal, level -> (B, K, D), and which of them do, (B, K)
        self.states, self.meets = {}, {}
        for level in real:
            self.states[level], self.meets[level] = self._meeting(level)

    @torch.no_grad()
    def _meeting(self, level: int) -> tuple[Tensor, Tensor]:
        """The latents that stand for the goals, (B, K, D), and which of them do, (B, K)."""
        real, least = self.real[level], self.own[level]
        found = []
        for rows in torch.arange(self.size, device=real.device).split(AT_ONCE):
            goal, every = self.goal.select(rows), real.expand(len(rows), -1, -1)
            cost, violation = goal.cost(level, every), goal.violation(level, every)
            found.append(cost if violation is None else cost.masked_fill(violation > 0, torch.inf))
        # those that meet the goal are equal, and come in the order of the bank
        cost, index = torch.cat(found).maximum(least.unsqueeze(1)).sort(dim=1, stable=True)
        cost, states = cost[:, :MOST], real[index[:, :MOST]]
        meets = (cost == cost[:, :1]) & cost.isfinite()
        unmet = cost[:, :1] > least.unsqueeze(1)
        if self.part is None or (unmet.device.type == "cpu" and not unmet.any()):  # on a GPU, to ask would wait
            return states, meets
        if (written := self.write(level, states, self.part)) is None:
            return states, meets
        violation = self.goal.violation(level, written)
        allowed = cost.isfinite() if violation is None else cost.isfinite() & (violation <= 0)
        unmet = unmet & allowed.any(1, keepdim=True)
        return torch.where(unmet.unsqueeze(2), written, states), torch.where(unmet, allowed, meets)

    @property
    def size(self) -> int:
        return self.goal.size

    @property
    def kind(self) -> str:
        return self.goal.kind

    def cost(self, level: int, latent: Tensor) -> Tensor:
        own = self.goal.cost(level, latent)
        if level not in self.states:
            return own
        points = latent.flatten(1, -2) if latent.dim() > 2 else latent.unsqueeze(1)
        steps = self._apart(level, points).amin(2).view(latent.shape[:-1])
        steps = torch.where(steps.isfinite(), steps, own)  # all that meet the goal are forbidden
        reached = self.own[level].view(-1, *(1 for _ in own.shape[1:]))
        return steps.masked_fill(own <= reached, 0)

    def _apart(self, level: int, points: Tensor) -> Tensor:
        """Steps from points (B, N, D) to the latents that stand for the goal, (B, N, K); inf to those that do not."""
        apart = torch.cdist(points, self.states[level], p=1)
        return apart.masked_fill(~self.meets[level].unsqueeze(1), torch.inf)

    def has_latent(self, level: int) -> bool:
        return level in self.states and bool(self.meets[level].any(1).all())

    def nearest(self, level: int, latent: Tensor) -> Tensor | None:
        if level not in self.states:
            return self.goal.nearest(level, latent)
        index = self._apart(level, latent.unsqueeze(1))[:, 0].argmin(1)
        return self.states[level][torch.arange(self.size, device=index.device), index]

    def select(self, rows: Tensor) -> StepsToGoal:
        selected = copy(self)
        selected.goal = self.goal.select(rows)
        selected.part = selected.goal.part
        selected.own, selected.states, selected.meets = (
            {level: of[rows] for level, of in each.items()} for each in (self.own, self.states, self.meets)
        )
        return selected

    def latent(self, level: int) -> Tensor | None:
        return self.goal.latent(level)

    def violation(self, level: int, latent: Tensor) -> Tensor | None:
        return self.goal.violation(level, latent)

    def reached_cost(self, level: int) -> Tensor:
        return self.reached[level].expand(self.size) if level in self.reached else self.goal.reached_cost(level)

    def more_accurate_than_above(self, level: int) -> Tensor:
        if level + 1 in self.states:  # few latents stand for the goal there
            return torch.ones(self.size, dtype=torch.bool, device=self.states[level + 1].device)
        return self.goal.more_accurate_than_above(level)

    def observe(self, latents: Sequence[Tensor]) -> tuple[Goal, Tensor]:
        goal, changed = self.goal.observe(latents)
        return self if goal is self.goal else StepsToGoal(goal, self.real, self.reached, self.write), changed


def in_steps(goal: Goal, real: Mapping[int, Tensor], reached: Mapping[int, Tensor], write: WritePart) -> Goal:
    """The goal, in which `StepsToGoal` stands for each goal without a latent, also within combinations of goals."""

    def convert(goal: Goal) -> Goal:
        if goal.latent(max(real)) is not None:
            return goal
        if isinstance(goal, CompositeGoal):
            return goal.compose([convert(each) for each in goal.goals])
        if isinstance(goal, Waypoints):
            return Waypoints([convert(each) for each in goal.goals], goal.tolerance, goal.current)
        if isinstance(goal, KeepOut) and isinstance(goal.goal, (CompositeGoal, Waypoints)):
            return KeepOut(convert(goal.goal), goal.region, goal.margin)
        return StepsToGoal(goal, real, reached, write)

    return convert(goal)


def _reached_cost(goal: Goal, level: int, device: torch.device) -> Tensor:
    """The cost up to which the goal counts as reached, (B,); 0 if the goal does not know it."""
    try:
        return goal.reached_cost(level)
    except ReachUnknown:
        return torch.zeros(goal.size, device=device)
