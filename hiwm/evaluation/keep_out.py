"""Goals that stay out of the forbidden box of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hiwm.agent import Agent, Observation
from hiwm.evaluation.config import Box
from hiwm.planning.goals import KeepOut


def keep_out(agent: Agent, goals: Observation, box: Box, margin: float) -> KeepOut:
    """The goals of B observations, combined with the constraint to stay out of the box and of a margin around it."""
    goal = agent.goal(goals)
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
