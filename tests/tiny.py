"""The smallest world with everything in it: a point in a room with a wall, and a config that trains in seconds."""

from __future__ import annotations

from functools import cache, cached_property
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from hiwm.envs.captions import Caption
from hiwm.envs.oracle import ShortestPaths

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent

STEP = 0.05
WALL = (0.46, 0.0, 0.08, 0.6)  # left, bottom, width, height; the way round it is above
RADIUS = 0.02  # that shortest paths keep from walls; the point has none
BORDERS = ((-0.2, -0.2, 1.4, 0.18), (-0.2, 1.02, 1.4, 0.18), (-0.2, -0.2, 0.18, 1.4), (1.02, -0.2, 0.18, 1.4))
STARTS_GOALS = {1: ((0.2, 0.2), (0.8, 0.2)), 2: ((0.15, 0.15), (0.15, 0.75)), 3: ((0.5, 0.8), (0.8, 0.2))}


class TinyRoom(gymnasium.Env):
    """A point in [0, 1]^2, moved by actions in [-1, 1]^2 times 0.05; see `hiwm.envs` for the contract.

    Args:
        radius: an episode succeeds this near its goal.
        behaviour: "navigate" draws a new goal at every arrival and gives `expert_action`; None for evaluation.
    """

    num_tasks = 3

    def __init__(self, *, radius: float = 0.1, behaviour: str | None = None) -> None:
        self.radius, self.behaviour = radius, behaviour
        self.observation_space = gymnasium.spaces.Box(0, 1, (2,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    @property
    def walls(self) -> list[tuple[float, float, float, float]]:
        return [WALL]

    @cached_property
    def oracle(self) -> TinyOracle:
        return TinyOracle(ShortestPaths([WALL, *BORDERS], RADIUS))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        if self.behaviour is None:
            start, goal = STARTS_GOALS[(options or {}).get("task_id", 1)]
            self.position = np.array(start) + self.np_random.uniform(-0.05, 0.05, 2)
            self.goal = np.array(goal) + self.np_random.uniform(-0.05, 0.05, 2)
        else:
            self.position, self.goal = self._free(), self._free()
        return self._observation(), {"goal": self.goal.astype(np.float32)} | self._expert()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        after = np.clip(self.position + STEP * np.clip(action, -1, 1), 0, 1)
        if not in_wall(after):
            self.position = after
        success = bool(np.linalg.norm(self.position - self.goal) <= self.radius)
        if success and self.behaviour is not None:
            self.goal = self._free()
        over = success and self.behaviour is None
        return self._observation(), 0.0, over, False, {"success": success} | self._expert()

    def captions(self, observations: np.ndarray) -> list[Caption]:
        left = np.asarray(observations)[:, 0] < 0.5
        said = ("the point is {}", "go {}", "stay {}", "move the dot {}", "be {}")
        sides = {"on the left side": left, "on the right side": ~left}
        return [Caption([words.format(side) for words in said], true) for side, true in sides.items()]

    def _observation(self) -> np.ndarray:
        return self.position.astype(np.float32)

    def _free(self) -> np.ndarray:
        while in_wall(point := self.np_random.uniform(0, 1, 2)):
            pass
        return point

    def _expert(self) -> dict[str, np.ndarray]:
        if self.behaviour is None:
            return {}
        (x, y), aim = self.position, self.goal
        if (x - 0.5) * (aim[0] - 0.5) < 0 and min(y, aim[1]) < 0.65:  # round the wall
            aim = np.array([x, 0.8]) if y < 0.7 else np.array([0.6 if aim[0] > 0.5 else 0.4, 0.8])
        direction = aim - self.position
        return {"expert_action": direction / max(np.linalg.norm(direction), STEP)}


class TinyOracle:
    """What is true of the room; see `hiwm.envs.oracle`."""

    def __init__(self, paths: ShortestPaths) -> None:
        self.paths = paths

    def shortest_steps(self, start: np.ndarray, goal: np.ndarray) -> np.ndarray:
        return self.paths.lengths(start, goal) / STEP

    def along(self, start: np.ndarray, goal: np.ndarray, steps: float) -> np.ndarray:
        return self.paths.along(start, goal, STEP * steps).astype(np.float32)

    def simulate(self, start: np.ndarray, actions: np.ndarray) -> np.ndarray:
        position = start.astype(float)
        for action in np.moveaxis(np.clip(actions, -1, 1), 1, 0):
            after = np.clip(position + STEP * action, 0, 1)
            blocked = np.array([in_wall(point) for point in after])
            position = np.where(blocked[:, None], position, after)
        return position.astype(np.float32)


class DiscreteRoom(TinyRoom):
    """The same, with five actions: stay, right, left, up, down."""

    MOVES = np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]])

    def __init__(self, *, radius: float = 0.1, behaviour: str | None = None) -> None:
        super().__init__(radius=radius, behaviour=behaviour)
        self.action_space = gymnasium.spaces.Discrete(len(self.MOVES))

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        assert self.action_space.contains(action), action
        return super().step(self.MOVES[action])


def in_wall(point: np.ndarray) -> bool:
    """Is a position inside the wall."""
    left, bottom, width, height = WALL
    return bool(left < point[0] < left + width and bottom <= point[1] < bottom + height)


ENVIRONMENT = ["~experiment", "+environment._target_=tiny.TinyRoom", "allow=[tiny]", "name=tiny"]
SMALL = [
    f"levels.level{k}.{part}.{key}={value}"
    for k in range(3)
    for part in ("encoder", "action_encoder", "predictor", "inverse")
    if k or part in ("predictor", "inverse")
    for key, value in (("width", 32), ("depth", 1))
]


def overrides(root: Path, *more: str) -> list[str]:
    """The command line of a tiny experiment under `root`."""
    return [
        *ENVIRONMENT,
        *SMALL,
        f"root={root}",
        "device=cpu",
        "threads=1",
        "+dataset.environment.behaviour=navigate",
        "+dataset.policy._target_=hiwm.data.policies.NoisyExpertPolicy",
        "+dataset.policy.noise=0.5",
        "dataset.episodes=30",
        "dataset.steps=81",
        "dataset.validation=0.2",
        "dataset.workers=1",
        "levels.level1.stride=3",
        "levels.level2.stride=2",
        "levels.level0.horizon=4",
        "levels.level1.horizon=3",
        "levels.level2.horizon=2",
        "training.steps=60",
        "training.batch=64",
        "training.evaluate_every=30",
        "graph.num_nodes=30",
        "graph.edge_steps=6",
        "graph.num_transitions=2000",
        "graph.num_candidates=500",
        "planner.graph=follow",
        "planner.hops=1",
        "planner.budget=120",
        "planner.level0.horizon=6",
        "planner.level0.replan=3",
        "planner.level0.action_repeat=1",
        "planner.level1.horizon=2",
        "planner.level1.replan=3",
        "planner.level2.horizon=4",
        "planner.level2.replan=6",
        "evaluation.num_tasks=2",
        "evaluation.episodes=3",
        "evaluation.baseline_episodes=2",
        "evaluation.max_steps=60",
        "evaluation.num_envs=2",
        *more,
    ]


def replaced(section: Any, **changes: Any) -> Any:
    """A section of the configuration with other values. Unlike `changed`, it replaces mappings as a whole."""
    return type(section)(**{**section.as_dict(), **changes})


def shipped(section: str, /, **changes: Any) -> Any:
    """A section of the shipped configuration, e.g. "training", with other values."""
    return getattr(_shipped(), section).changed(changes)


@cache
def _shipped() -> Any:
    from hiwm.config import load_config

    return load_config([])
