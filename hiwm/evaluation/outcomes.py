"""Outcomes of a set of episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np


@dataclass(frozen=True)
class LevelTrace:
    """What one level did in a recorded episode: P plans, oldest first.

    Args:
        target_level: the level in whose latent space the targets lie.
        period: environment steps in one step of the level.
        step_length: typical length of one step of the level, in its latent space.
        latents: latents of the level that the episode was in, at the steps `Trace.seen`, (T', D).
        parts: names of the parts of a cost.
        plans: quantity -> (P, ...), see `hiwm.evaluation.recording.level_trace`; NaN, or -1 in whole numbers, where a plan has none.
        why: each plan in words, (P,).
    """

    target_level: int
    period: int
    step_length: float
    latents: np.ndarray
    parts: list[str]
    plans: dict[str, np.ndarray]
    why: list[str]

    def plan_at(self, steps: np.ndarray) -> np.ndarray:
        """Indices of the plans that the level follows at some environment steps, (N,) -> (N,)."""
        return np.searchsorted(self.plans["step"], steps, "right") - 1


@dataclass(frozen=True)
class Trace:
    """One recorded episode, for figures and the report.

    Args:
        task: number of the task.
        episode: number of the episode within its task, from 0.
        success: whether the episode reached its goal.
        states: visited states, (T, C): the first numbers of the state columns of a dict observation, else of the observation
            itself. The trace of a successful episode ends with the state that reached the goal.
        goal: state of the goal, (C,).
        actions: primitive action at each step, (N, A).
        seen: environment steps of the recorded latents, (T',).
        levels: what each level did, bottom first.
        frame_steps: environment steps of the frames, (F,); -1 is the goal.
        frames: pictures of observations, (F, H, W, C), uint8; none where no input is an image.
        walls: (left, bottom, width, height) of the walls of the episode, (W, 4); none where all episodes have the same.
    """

    task: int
    episode: int
    success: bool
    states: np.ndarray
    goal: np.ndarray
    actions: np.ndarray
    seen: np.ndarray
    levels: list[LevelTrace]
    frame_steps: np.ndarray
    frames: np.ndarray
    walls: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))

    @property
    def steps(self) -> int:
        """Environment steps of the episode."""
        return len(self.actions)

    @property
    def subgoals(self) -> list[np.ndarray]:
        """For each level, the latent it handed down at each step, (N, D_k)."""
        return [level.plans["subgoal"][level.plan_at(np.arange(self.steps))] for level in self.levels]

    def explain(self, step: int) -> str:
        """Why the agent acts as it does at a step: the plans of all levels, the top one first, and the action."""
        plans = [level.why[int(level.plan_at(np.array([step]))[0])] for level in reversed(self.levels)]
        action = ", ".join(f"{value:.3g}" for value in self.actions[step].tolist())
        return "\n".join([*plans, f"action {action}"])


def first_and_failed(traces: Sequence[Trace]) -> list[Trace]:
    """Of each task the first episode and the first failure, which may be one."""
    wanted: dict[int, dict[int, Trace]] = {}
    for trace in sorted(traces, key=lambda trace: (trace.task, trace.episode)):
        of_task = wanted.setdefault(trace.task, {})
        if trace.episode == 0 or (not trace.success and all(other.success for other in of_task.values())):
            of_task[trace.episode] = trace
    return [trace for of_task in wanted.values() for trace in of_task.values()]


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
        subgoals: of each batch of episodes: `level<k>` -> sums over the decided subgoals of the level, see `SubgoalTally`.
        traces: of each task the first episode and the first failure.
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
        """These episodes followed by the others; of their traces, the first of each task and the first failure are kept."""
        parts = {part.name: getattr(self, part.name) + getattr(other, part.name) for part in fields(Episodes)}
        return Episodes(**{**parts, "traces": first_and_failed(parts["traces"])})
