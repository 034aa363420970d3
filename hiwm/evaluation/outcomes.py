"""What came of a set of episodes."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np


@dataclass(frozen=True)
class Trace:
    """One episode, for a person to look at.

    Args:
        task: its number.
        success: was the goal reached.
        states: what was seen, (T, C): the state columns of an observation that is a dict, else the observation itself; of
            a success, with the one that reached the goal.
        goal: the same of the goal, (C,).
        subgoals: for each level, the latent handed down at each step, (T, D_k).
        why: the plan in words, whenever the top level planned.
    """

    task: int
    success: bool
    states: np.ndarray
    goal: np.ndarray
    subgoals: list[np.ndarray]
    why: list[str]


@dataclass
class Episodes:
    """Outcomes of a set of episodes.

    Args:
        task: task of each episode, (N,).
        success: (N,).
        steps: environment steps until success or the limit, (N,).
        inside: how many of them ended in the forbidden box, (N,); empty where there is none.
        plan_ms: milliseconds of planning in each environment step, over the episodes planned for; where no level was due, nearly none.
        planned: episodes each planning call planned for.
        predictor_calls: one-step predictions in all.
        other_calls: passes through encoders, inverse models, priors and costs to go in all; not through the readouts of goals.
        traces: the first episode of each task.
    """

    task: list[int] = field(default_factory=list)
    success: list[bool] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    inside: list[int] = field(default_factory=list)
    plan_ms: list[float] = field(default_factory=list)
    planned: list[int] = field(default_factory=list)
    predictor_calls: float = 0.0
    other_calls: float = 0.0
    traces: list[Trace] = field(default_factory=list)

    def __add__(self, other: Episodes) -> Episodes:
        """These and then the others."""
        return Episodes(*(getattr(self, part.name) + getattr(other, part.name) for part in fields(Episodes)))
