"""Planners for tests: one level with an exact model of an empty room, and the hierarchy of the tiny run."""

from __future__ import annotations

import pytest
import torch

from hiwm.config import load_config
from hiwm.hierarchy import Hierarchy, LevelSpec
from hiwm.levels.parts import Predictor
from hiwm.planning.assemble import make_planner
from hiwm.planning.config import PlannerConfig
from hiwm.planning.goals import ObservationGoal

STEP = 0.05
LOW, HIGH = torch.full((2,), -1.0), torch.full((2,), 1.0)
FLAT = PlannerConfig(
    graph="none",
    budget=200,
    level0={"horizon": 20, "replan": 5, "hold": 5, "proposal": {"center": "gaussian", "std": 0.7}},
)


class Linear(Predictor):
    """z' = z + 0.05 a: the room without its wall, exactly."""

    def forward(self, latent, action):
        return latent + STEP * action


class Identity(torch.nn.Module):
    """A readout of latents that are the position."""

    std = torch.ones(2)

    def forward(self, latent):
        return latent


@pytest.fixture
def exact():
    """One level whose latent is the position and whose predictor is right."""
    spec = LevelSpec(load_config([]).levels["level0"], 1, {"state": (2,)}, 2, "exact")
    level = spec.build()
    level.predictor = Linear(2)
    return Hierarchy([level], [spec]).eval().requires_grad_(False)


def points(number, seed=0):
    """Random positions in the room."""
    return torch.rand(number, 2, generator=torch.Generator().manual_seed(seed))


def flat_planner(exact, **changes):
    """A planner over the exact level; changes of level 0 as `level0={...}`."""
    return make_planner(exact, FLAT.changed(changes), (LOW, HIGH))


def hierarchy_planner(agent, **changes):
    """A planner over the trained tiny hierarchy."""
    return make_planner(agent.hierarchy, agent.config.changed(changes), (LOW, HIGH), agent.heads, agent.graphs)


def begin(planner, goal, seed=0):
    """The planner, at the start of episodes towards a goal."""
    planner.start(goal, torch.Generator().manual_seed(seed))
    return planner


def start(planner, goal, seed=0):
    """The same towards positions, (B, 2)."""
    return begin(planner, ObservationGoal(planner.hierarchy.encode({"state": goal})), seed)


def walk(planner, state, steps):
    """Plans while walking through the room without walls, and the last position."""
    plans = []
    for _ in range(steps):
        plans.append(planner.plan({"state": state}))
        state = (state + STEP * plans[-1].action).clamp(0, 1)
    return plans, state


def path_of(planner, position, steps):
    """Plans, and the positions after each step, (steps, B, 2)."""
    plans, _ = walk(planner, position, steps)
    return plans, position + STEP * torch.stack([plan.action for plan in plans]).cumsum(0)
