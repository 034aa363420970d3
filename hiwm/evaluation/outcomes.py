"""Outcomes of a set of episodes."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np


@dataclass(frozen=True)
class Trace:
    """One recorded episode, for figures and the report.

    Args:
        task: number of the task.
        success: whether the episode reached its goal.
        states: visited states, (T, C): the state columns of a dict observation, else the observation itself. The trace of
            a successful episode ends with the state that reached the goal.
        goal: state of the goal, (C,).
        subgoals: for each level, the latent it handed down at each step, (T, D_k).
        why: one explanation in words for each plan of the top level.
    """

    task: int
    success: bool
    states: np.ndarray
    goal: np.ndarray
    subgoals: list[np.ndarray]
    why: list[str]


@dataclass
class Episodes:
    """Outcomes of a set of N episodes.

    Args:
        task: task of each episode, (N,).
        success: whether each episode reached its goal, (N,).
        steps: environment steps until success, until the environment ends the episode, or until the limit, (N,).
        inside: steps that ended in the forbidden box, (N,); empty if nothing is forbidden.
        plan_ms: planning time per episode at each environment step, milliseconds; close to 0 at steps where no level plans.
        planned: number of episodes that each planning call planned for.
        predictor_calls: forward passes of the predictors, in total; see `hiwm.planning.plan.Plan`.
        other_calls: forward passes through encoders, inverse models, action priors and value heads, in total. Passes
            through the state readouts of goals are not counted.
        subgoals: of each batch of episodes: "level<k>" -> sums over the decided subgoals of the level, see `SubgoalTally`.
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
    subgoals: list[dict[str, list[float]]] = field(default_factory=list)
    traces: list[Trace] = field(default_factory=list)

    def __add__(self, other: Episodes) -> Episodes:
        """These episodes followed by the others."""
        return Episodes(*(getattr(self, part.name) + getattr(other, part.name) for part in fields(Episodes)))
