"""Why a level does what it does, as tensors of a batch of B episodes; made into words for one of them on demand."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")

# what became of a subgoal
NOTHING, REACHED, UNREACHED, UNREACHABLE = range(4)


@dataclass(frozen=True)
class Route:
    """The way over a landmark graph that an aim is on.

    Args:
        here: landmark the episodes are at, (B,).
        aim: that they make for, (B,).
        goal: that stands for the goal, (B,).
        cost: from here to the goal, in edges, (B,).
        column: the goal's in `following`, (B,).
        following: next landmark from each of M on the way to each of G goals, (M, G).
    """

    here: Tensor
    aim: Tensor
    goal: Tensor
    cost: Tensor
    column: Tensor
    following: Tensor

    def keep(self, rows: Tensor) -> Route:
        """The same for some of the episodes."""
        taken = [x[rows] for x in (self.here, self.aim, self.goal, self.cost, self.column)]
        return Route(*taken, following=self.following)

    def edges(self, episode: int) -> int:
        """From here to the goal."""
        onward = self.following[:, self.column[episode]].tolist()
        at, goal, edges = int(self.here[episode]), int(self.goal[episode]), 0
        while at != goal:
            at, edges = onward[at], edges + 1
        return edges

    def text(self, episode: int) -> str:
        """What is aimed at."""
        cost, aim = float(self.cost[episode]), int(self.aim[episode])
        if aim == int(self.goal[episode]):
            return "the goal itself, reached among the landmarks"
        if not math.isfinite(cost):
            return f"landmark {aim}, though no way to the goal is known"
        return f"landmark {aim}, on a way of {self.edges(episode)} edges to the goal at cost {cost:.1f}"


@dataclass(frozen=True)
class Verdict:
    """What became of the last subgoal that was judged.

    Args:
        outcome: NOTHING where none was yet, REACHED, UNREACHED in the time it had, or UNREACHABLE by what the level below
            told, (B,).
        made_at: environment step it was handed down at, (B,).
        energy: squared distance the episode came to, (B,).
        scale: squared distance it was away, at least that of a typical step, (B,).
    """

    outcome: Tensor
    made_at: Tensor
    energy: Tensor
    scale: Tensor

    def keep(self, rows: Tensor) -> Verdict:
        """The same for some of the episodes."""
        return keep_rows(self, rows)

    def text(self, episode: int) -> str:
        """In words; "" where there is nothing to tell."""
        outcome = int(self.outcome[episode])
        if outcome == NOTHING:
            return ""
        said = {
            REACHED: "reached",
            UNREACHED: "not reached in time",
            UNREACHABLE: "given up, the level below saw no way",
        }
        share = float((self.energy[episode] / self.scale[episode]).sqrt())
        return f"subgoal of step {int(self.made_at[episode])} {said[outcome]}: came to {share:.2f} of its distance"


def keep_rows(record: T, rows: Tensor) -> T:
    """A dataclass of tensors (B, ...), for some of their rows; records within it keep theirs, anything else stays."""

    def kept(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[rows]
        return value.keep(rows) if is_dataclass(type(value)) else value

    held: Any = record  # there is no type of all dataclasses
    return replace(held, **{field.name: kept(getattr(held, field.name)) for field in fields(held)})
