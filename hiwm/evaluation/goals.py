"""Goals of an evaluation: the goal observations or a custom goal, with a forbidden box if the protocol has one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hiwm.build import build_as
from hiwm.evaluation.config import Box, EvaluationConfig
from hiwm.observation import Observation
from hiwm.planning.goals import Goal, KeepOut

if TYPE_CHECKING:
    from hiwm.agent import Agent


def make_goal(agent: Agent, config: EvaluationConfig, name: str, observation: Observation) -> Observation | Goal:
    """The goal of a batch of episodes.

    Args:
        agent: the agent to evaluate.
        config: the protocol.
        name: name of the agent, which may have its own margin around the forbidden box.
        observation: goal observations of B environments.
    """
    wanted: Observation | Goal = observation
    if config.goal is not None:
        wanted = build_as(Goal, "evaluation.goal", config.goal, agent.allow, agent=agent, observation=observation)
    box, margin = config.forbidden.box, config.margin(name)
    return wanted if box is None or margin is None else keep_out(agent, wanted, box, margin)


def keep_out(agent: Agent, wanted: Observation | Goal, box: Box, margin: float) -> KeepOut:
    """A goal, or the goals of B observations, with the constraint to stay out of the box and of a margin around it."""
    goal = wanted if isinstance(wanted, Goal) else agent.goal(wanted)
    low, high = (
        {name: [bound] * goal.size for name, bound in _columns(agent, side).items()} for side in (box.low, box.high)
    )
    return KeepOut(goal, agent.region(low, high), margin)


def check_region(agent: Agent, box: Box) -> None:
    """Raise ValueError if the agent cannot avoid the box."""
    if not agent.heads.readouts:
        raise ValueError(
            "evaluation.forbidden.margin is set, but this hierarchy has no state readout; expected one trained with "
            "goal.columns. Set the margin to null to count entries only"
        )
    shapes = agent.spec.part
    size = sum(int(np.prod(shape)) for shape in shapes.values())
    if len(box.low) != size:
        raise ValueError(
            f"evaluation.forbidden.low is {list(box.low)}; expected {size} numbers, one for each element of {list(shapes)}"
        )


def _columns(agent: Agent, bound: Sequence[float]) -> dict[str, np.ndarray]:
    """A bound of the box by column, each of the column's shape."""
    shapes = agent.spec.part
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])
    parts = np.split(np.asarray(bound, np.float32), ends[:-1])
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
