"""Diverse Maze as a Gymnasium environment: a ball with momentum, in mazes of 10 x 10 cells, with tasks in mazes that are not in the data.

Source: the protocol of PLDM (arXiv 2502.14819) and HWM (arXiv 2604.03208), re-implemented. Differences: their levels see an image and the velocity, here the observation
is position, velocity and map; the goal is such an observation at rest, not an image; the simulator and the noise of the starts of data are those of Gymnasium-Robotics, theirs of D4RL.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import gymnasium
import numpy as np

from hiwm.envs.diverse_maze.maps import SIDE
from hiwm.envs.diverse_maze.simulator import MOST_SPEED, RADIUS, STEP_SECONDS, simulator
from hiwm.envs.diverse_maze.tasks import BINS, TRAINING_MAPS, draw_direction, draw_first, load_version
from hiwm.envs.oracle import Observations, ShortestPaths, Wall, columns_of

GOAL_RADIUS = 0.5  # cells
CRUISE = 2.5  # cells/s; turns shortest paths into steps


class DiverseMaze(gymnasium.Env):
    """A single environment.

    Observations are a dict:

        position  of the ball, cells from the corner of the map, (2,)
        velocity  of the ball, cells per step, (2,)
        map       1 for a wall, 0 for a free cell, (10, 10); `map[j, i]` is the cell at x from i to i + 1 and y from j to j + 1

    A step is 0.04 s. Actions are forces along x and y. An episode succeeds and ends when the ball is within 0.5 cells of the goal.
    A task has 200 episodes; their numbers are taken modulo 200.

    Args:
        behaviour: `random` collects data: a random maze of the 25 for training, a random start and velocity, and infos whose `expert_action` is random. None is for evaluation.
    """

    def __init__(self, *, behaviour: str | None = None) -> None:
        if behaviour not in (None, "random"):
            raise ValueError(f"behaviour is {behaviour!r}; expected null or random")
        self.behaviour = behaviour
        self.version = load_version()
        self.num_tasks = len(BINS) if behaviour is None else 0
        fastest = STEP_SECONDS * MOST_SPEED
        self.observation_space = gymnasium.spaces.Dict(
            {
                "position": gymnasium.spaces.Box(0, SIDE, (2,), np.float32),
                "velocity": gymnasium.spaces.Box(-2 * fastest, 2 * fastest, (2,), np.float32),
                "map": gymnasium.spaces.Box(0, 1, (SIDE, SIDE), np.float32),
            }
        )
        self.action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
        self._map: np.ndarray | None = None

    @property
    def walls(self) -> list[Wall]:
        """(left, bottom, width, height) of the walls that all mazes share, those of the border."""
        return [(0, 0, SIDE, 1), (0, SIDE - 1, SIDE, 1), (0, 1, 1, SIDE - 2), (SIDE - 1, 1, 1, SIDE - 2)]

    def walls_of(self, observation: Mapping[str, np.ndarray]) -> list[Wall]:
        """(left, bottom, width, height) of the walls of the maze in an observation."""
        return _blocks(np.asarray(observation["map"]) > 0.5)

    @cached_property
    def oracle(self) -> DiverseMazeOracle:
        """What is true of the mazes."""
        return DiverseMazeOracle()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        super().reset(seed=seed)
        options = options or {}
        if self.behaviour is not None:
            self._map = self.version.maps[self.np_random.integers(TRAINING_MAPS)]
            self._position, self._velocity = draw_first(self._walls(), self.np_random)
            return self._observe(), self._expert()
        if not 1 <= (task := options.get("task_id", 1)) <= self.num_tasks:
            raise ValueError(f"task_id is {task}; expected 1 to {self.num_tasks}")
        bin_, episode = task - 1, options.get("episode", 0) % self.version.start.shape[1]
        self._map = self.version.maps[self.version.map_number[bin_, episode]]
        self._position, self._velocity = self.version.start[bin_, episode], np.zeros(2)
        self._goal = self.version.goal[bin_, episode]
        return self._observe(), {"goal": _observed(self._goal, np.zeros(2), self._walls())}

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        simulated = simulator(self._walls())
        action = np.clip(np.asarray(action, float), -1, 1)
        self._position, self._velocity = simulated.step(self._position, self._velocity, action)
        if self.behaviour is not None:
            return self._observe(), 0.0, False, False, {"success": False} | self._expert()
        success = bool(np.linalg.norm(self._position - self._goal) < GOAL_RADIUS)
        return self._observe(), 0.0, success, False, {"success": success}

    def render(self) -> np.ndarray:
        """The maze, the ball and, in an evaluation, its goal, uint8 (400, 400, 3)."""
        pixels = 40 * SIDE
        x = (np.arange(pixels) + 0.5) / 40
        frame = (
            np.repeat(np.repeat(np.where(self._walls(), 70, 235), 40, 0), 40, 1)
            .astype(np.uint8)[..., None]
            .repeat(3, 2)
        )
        discs = [(self._position, 2 * RADIUS, (200, 60, 40))]
        if self.behaviour is None:
            discs.insert(0, (self._goal, GOAL_RADIUS, (120, 190, 120)))
        for (centre_x, centre_y), radius, colour in discs:
            frame[(x - centre_x) ** 2 + (x[:, None] - centre_y) ** 2 < radius**2] = colour
        return frame[::-1]

    def _walls(self) -> np.ndarray:
        if self._map is None:
            raise gymnasium.error.ResetNeeded("the environment has no maze yet; call reset first")
        return self._map

    def _expert(self) -> dict[str, np.ndarray]:
        return {"expert_action": draw_direction(self.np_random)}

    def _observe(self) -> dict[str, np.ndarray]:
        return _observed(self._position, self._velocity, self._walls())


class DiverseMazeOracle:
    """The truth about the ball; see `hiwm.envs.oracle`."""

    def __init__(self) -> None:
        self._paths: dict[bytes, ShortestPaths] = {}

    def shortest_steps(self, start: Observations, goal: Observations) -> np.ndarray:
        """Length of the path at 2.5 cells/s, a typical speed; inf between two mazes."""
        length = np.zeros(len(columns_of(start)["position"]))
        for rows, paths in self._mazes(start):
            length[rows] = paths.lengths(columns_of(start)["position"][rows], columns_of(goal)["position"][rows])
        elsewhere = (columns_of(start)["map"] != columns_of(goal)["map"]).any((1, 2))
        return np.where(elsewhere, np.inf, length / (CRUISE * STEP_SECONDS))

    def along(self, start: Observations, goal: Observations, steps: float) -> Observations:
        """States along the path, with velocity 0."""
        columns = columns_of(start)
        position = np.array(columns["position"], float)
        for rows, paths in self._mazes(start):
            target = np.asarray(columns_of(goal)["position"][rows], float)
            position[rows] = paths.along(position[rows], target, steps * CRUISE * STEP_SECONDS)
        return _observed(position, np.zeros_like(position), columns["map"])

    def simulate(self, start: Observations, actions: np.ndarray) -> Observations:
        columns = columns_of(start)
        position = np.array(columns["position"], float)
        velocity = np.array(columns["velocity"], float) / STEP_SECONDS
        for row, walls in enumerate(columns["map"]):
            simulated = simulator(walls > 0.5)
            for action in np.clip(actions[row], -1, 1):
                position[row], velocity[row] = simulated.step(position[row], velocity[row], action)
        return _observed(position, velocity, columns["map"])

    def _mazes(self, observations: Observations) -> Iterator[tuple[np.ndarray, ShortestPaths]]:
        """The rows of each maze, and its shortest paths."""
        maps = np.asarray(columns_of(observations)["map"]) > 0.5
        found, of_row = np.unique(maps.reshape(len(maps), -1), axis=0, return_inverse=True)
        for number, walls in enumerate(found):
            if (key := walls.tobytes()) not in self._paths:
                self._paths[key] = ShortestPaths(_blocks(walls.reshape(SIDE, SIDE)), RADIUS)
            yield np.flatnonzero(of_row.ravel() == number), self._paths[key]


def _blocks(walls: np.ndarray) -> list[Wall]:
    return [(float(i), float(j), 1.0, 1.0) for j, i in np.argwhere(walls)]


def _observed(position: np.ndarray, velocity: np.ndarray, walls: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "position": position.astype(np.float32),
        "velocity": (STEP_SECONDS * velocity).astype(np.float32),
        "map": walls.astype(np.float32),
    }
