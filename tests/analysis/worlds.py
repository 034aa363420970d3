"""Worlds whose latents, predictions and distances are known exactly, as studies."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from planning_tools import STEP, planner_config, search

from hiwm.agent import Agent
from hiwm.agent_spec import AgentSpec
from hiwm.analysis.questions import Study
from hiwm.config import load_config
from hiwm.data.store import Trajectories
from hiwm.heads.heads import Heads
from hiwm.hierarchy import Hierarchy, LevelSpec
from hiwm.levels.parts import ActionEncoder, Encoder, Predictor

STRIDE = 4  # of level 1


class Linear(Predictor):
    """z' = z + step * a."""

    def __init__(self, step):
        super().__init__(2)
        self.step_size = step

    def forward(self, latent, action):
        return latent + self.step_size * action


class Mean(ActionEncoder):
    """A matrix times the mean of a chunk: where it leads in the latent."""

    dim = 2

    def __init__(self, matrix):
        super().__init__()
        self.register_buffer("matrix", torch.as_tensor(matrix, dtype=torch.float32))

    def forward(self, latent, actions):
        return actions.mean(-2) @ self.matrix.T


class Linearly(Encoder):
    """A matrix times the first two numbers of the latent below."""

    dim = 2

    def __init__(self, matrix):
        super().__init__()
        self.register_buffer("matrix", torch.as_tensor(matrix, dtype=torch.float32))

    def forward(self, inputs):
        return inputs["latent"] @ self.matrix.T


class OpenField:
    """An oracle without walls."""

    def shortest_steps(self, start, goal):
        return np.linalg.norm(goal - start, axis=1) / STEP

    def along(self, start, goal, steps):
        way = goal - start
        far = np.linalg.norm(way, axis=1, keepdims=True)
        return start + way * np.minimum(1, STEP * steps / np.maximum(far, 1e-9))

    def simulate(self, start, actions):
        return start + STEP * np.clip(actions, -1, 1).sum(1)


def hierarchy(matrix=((1, 0), (0, 1)), levels=2):
    """Level 0: the position, predicted exactly; level 1: a linear map of it."""
    configs = load_config([]).levels
    specs = [
        LevelSpec(configs["level0"], 1, {"state": (2,)}, 2, "exact0"),
        LevelSpec(configs["level1"], STRIDE, {"latent": (2,)}, 2, "exact1"),
    ]
    built = [spec.build() for spec in specs]
    built[0].predictor, built[1].predictor = Linear(STEP), Linear(STEP * STRIDE)
    built[1].encoder, built[1].action_encoder = Linearly(matrix), Mean(matrix)
    for level, step in zip(built, (STEP, STEP * STRIDE), strict=True):
        level.predictor.scale.fill_(step)
    return Hierarchy(built[:levels], specs[:levels]).eval().requires_grad_(False)


def walks(episodes=20, steps=200, seed=0, **columns):
    """A dataset of smooth walks in a plane; further columns are functions of the positions (N, 2)."""
    rng = np.random.default_rng(seed)
    angle = np.cumsum(rng.normal(0, 0.3, (episodes, steps)), 1) + rng.uniform(0, 6.28, (episodes, 1))
    actions = np.stack([np.cos(angle), np.sin(angle)], -1)
    start = rng.uniform(-1, 1, (episodes, 1, 2))
    before = np.concatenate([start, start + STEP * np.cumsum(actions, 1)[:, :-1]], 1)
    state = before.reshape(-1, 2).astype(np.float32)
    named = {name: np.asarray(of(state)) for name, of in columns.items()}
    data = {"state": state, "action": actions.reshape(-1, 2).astype(np.float32), **named}
    lengths = np.full(episodes, steps)
    return Trajectories(Path("none"), data, lengths, np.arange(episodes) * steps)


def study(
    matrix=((1, 0), (0, 1)), levels=2, dataset=None, oracle: Any = None, walls=(), results=None, planner=None
) -> Study:
    """Half of the episodes are held out."""
    made = hierarchy(matrix, levels)
    config = planner or planner_config(budget=400.0, **{f"level{k}": {"horizon": 4, **search()} for k in range(levels)})
    spec = AgentSpec({}, [-1.0, -1.0], [1.0, 1.0], "walks")
    agent = Agent(made, Heads(), [], config, spec)
    environment = SimpleNamespace(oracle=oracle, walls=walls, observation_space=None)
    return Study(
        agent, walks() if dataset is None else dataset, ["state"], 0.5, environment=environment, results=results
    )
