"""What several tests of planning share: a level that predicts exactly, configs, and walks through the room without walls."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any

import torch

from hiwm.config import load_config
from hiwm.heads.heads import Heads
from hiwm.hierarchy import Hierarchy, LevelSpec
from hiwm.levels.parts import Predictor
from hiwm.planning.assemble import make_planner
from hiwm.planning.config import PlannerConfig
from hiwm.planning.goals import ObservationGoal
from hiwm.planning.noise import EpisodeNoise
from hiwm.planning.strategies.search import Search
from hiwm.settings import merged

STEP = 0.05
LOW, HIGH = torch.full((2,), -1.0), torch.full((2,), 1.0)
CEM = {"_target_": "hiwm.planning.solvers.cem.CEM"}
NO_STD = 1e-30  # standard deviation of a proposal that leaves float32 numbers as they are


class AnyBatch(EpisodeNoise):
    """The noise of as many episodes as are asked for."""

    def __init__(self, seed):
        super().__init__([])
        self.seed = seed

    def _draw(self, shape, fill):
        for number in range(len(self.generators), shape[0]):
            self.generators += EpisodeNoise.of_episodes(self.seed, [number]).generators
        return super()._draw(shape, fill)


def noise(seed=0):
    return AnyBatch(seed)


def search(center="gaussian", *candidates, std=None):
    """Keys of a level that searches."""
    std = {"gaussian": 1.0}.get(center, 0.5) if std is None else std
    return {"strategy": "search", "proposal": {"center": center, "std": std, "candidates": list(candidates)}}


def per_level(**lists: list[Any]) -> dict[str, dict[str, Any]]:
    """Lists with one value per level, bottom first, as changes of a `PlannerConfig`: `per_level(horizon=[6, 2])`."""
    number = max(len(values) for values in lists.values())
    return {f"level{k}": {key: values[k] for key, values in lists.items()} for k in range(number)}


GAUSSIAN = {"level0": search(std=0.7), "level1": search(), "level2": search()}
INVERSE = {"level0": search("inverse"), "level1": search("inverse"), "level2": search()}


def planner_config(**changes: Any) -> PlannerConfig:
    """The shipped planner without a graph, with changes; a level without an entry has the defaults of `LevelPlanning`."""
    shipped = load_config([]).planner.as_dict()
    shipped = {key: value for key, value in shipped.items() if key in PlannerConfig.model_fields}
    return PlannerConfig(**{**shipped, "graph": "none", **changes})


FLAT = planner_config(
    hops=1, budget=200.0, solver=CEM, level0={"horizon": 20, "replan": 5, "action_repeat": 5, "proposal": {"std": 0.7}}
)


class Linear(Predictor):
    """z' = z + 0.05 a: the room without its wall, exactly."""

    def forward(self, latent, action):
        return latent + STEP * action


class Counting(Predictor):
    """A part that counts the rows it is given; as a predictor it rolls out step by step."""

    def __init__(self, part):
        super().__init__(len(getattr(part, "scale", [0])))
        self.part, self.count = part, 0

    def rescale(self, latent):
        return latent

    for_actions = rescale

    def forward(self, first, *others):
        rows = first["latent"] if isinstance(first, dict) and "latent" in first else first
        rows = rows["state"] if isinstance(rows, dict) else rows
        self.count += rows.shape[:-1].numel()
        return self.part(first, *others)


class Identity(torch.nn.Module):
    """A readout of latents that are the position."""

    std = torch.ones(2)

    def forward(self, latent):
        return latent


def exact_hierarchy(stride=1):
    """One level whose latent is the position and whose predictor is right."""
    spec = LevelSpec(load_config([]).levels["level0"], stride, {"state": (2,)}, 2, "exact")
    level = spec.build()
    level.predictor = Linear(2)
    return Hierarchy([level], [spec]).eval().requires_grad_(False)


def flat_planner(hierarchy, *changes: Mapping[str, Any], bounds=(LOW, HIGH), heads=None, graphs=(), allow=(), **more):
    """A planner over one level, with changes of `FLAT`."""
    config = FLAT.changed(reduce(merged, changes, {})).changed(more)
    return make_planner(hierarchy, config, bounds, heads or Heads(), graphs, allow=allow)


def hierarchy_planner(agent, *changes: Mapping[str, Any], allow=(), **more):
    """A planner over the trained tiny hierarchy, with changes of its config."""
    config = agent.config.changed(reduce(merged, changes, {})).changed(more)
    return make_planner(agent.hierarchy, config, (LOW, HIGH), agent.heads, agent.graphs, allow=allow)


def points(number, seed=0):
    return torch.rand(number, 2, generator=torch.Generator().manual_seed(seed))


def begin(planner, goal, seed=0):
    planner.start(goal, EpisodeNoise.of_episodes(seed, range(goal.size)))
    return planner


def start(planner, goal, seed=0):
    """Begin towards whole observations, states (B, 2)."""
    return begin(planner, ObservationGoal(planner.hierarchy.encode({"state": goal})), seed)


def walk(planner, state, steps):
    """Plans while walking through the room without walls, and where the walk ends."""
    plans = []
    for _ in range(steps):
        plans.append(planner.plan({"state": state}))
        state = (state + STEP * plans[-1].action).clamp(0, 1)
    return plans, state


def path_of(planner, position, steps):
    """Plans of a walk, and the states after each step, (steps, B, 2)."""
    plans, _ = walk(planner, position, steps)
    return plans, position + STEP * torch.stack([plan.action for plan in plans]).cumsum(0)


def samples(planner, k):
    """Candidates in a round of level k's search."""
    return planner.strategies[k].samples(planner.models[k], planner.budgets[k])


def proposals_of(planner):
    """The proposals that its searches begin with from now on, and what they find: a list that grows."""
    (solver,) = {strategy.solver for strategy in planner.strategies if isinstance(strategy, Search)}
    asked, solve = [], solver.solve

    def spy(objective, proposal, *others):
        found = solve(objective, proposal, *others)
        asked.append((proposal, found))
        return found

    solver.solve = spy
    return asked
