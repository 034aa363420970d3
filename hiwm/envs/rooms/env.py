"""FourRoom with a distractor as Gymnasium environments: a vector of environments, or a single one.

Source: kevinghst/H-JEPA (arXiv 2610.06805), `fourroom_tp35_d1`, re-implemented from its definition. The agent moves at
most 2.5 pixels per step. The distractor keeps its heading; every 35 steps on average it jumps to a random position and
heading. With probability 0.5, one door is closed for the whole episode; other versions of the tasks have other layouts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from hiwm.envs.captions import Caption
from hiwm.envs.oracle import Observations, Wall, columns_of
from hiwm.envs.rooms.captions import describe
from hiwm.envs.rooms.geometry import Rooms
from hiwm.envs.rooms.render import Renderer
from hiwm.envs.rooms.tasks import SPEED, Task, expert, load_version

TELEPORT_STEPS = 35  # mean time between jumps of the distractor
GOAL_RADIUS = 16.0
GIVE_UP_STEPS = 40  # mean steps after which an expert who does not know the doors draws a new goal


class FourRoomVector(VectorEnv):
    """`num_envs` environments that advance together; see `FourRoom`. Infos hold "success" and "ended", (N,)."""

    def __init__(
        self, num_envs: int, *, side: int = 2, resolution: int = 64, tasks: str = "v1", behaviour: str | None = None
    ) -> None:
        if behaviour not in (None, "navigate", "explore"):
            raise ValueError(f"behaviour is {behaviour!r}; expected null, navigate or explore")
        self.num_envs = num_envs
        self.behaviour = behaviour
        self.version = load_version(tasks, side)
        self.rooms = Rooms(side, self.version.layouts)
        self.open_rooms = Rooms(side, np.zeros((1, self.rooms.num_doors), bool))  # one layout, without a closed door
        self.renderer = Renderer(self.rooms, resolution)
        self.tasks = self.version.tasks if behaviour is None else []
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        high = self.rooms.size
        self.single_observation_space = gymnasium.spaces.Dict(
            {
                "pixels": gymnasium.spaces.Box(0, 255, (resolution, resolution, 3), np.uint8),
                "agent": gymnasium.spaces.Box(0, high, (2,), np.float32),
                "distractor": gymnasium.spaces.Box(0, high, (2,), np.float32),
                "doors": gymnasium.spaces.Box(0, 1, (self.rooms.num_doors,), np.float32),
            }
        )
        self.single_action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    @property
    def num_tasks(self) -> int:
        return len(self.tasks)

    def walls_of(self, observation: Mapping[str, np.ndarray]) -> list[Wall]:
        """(left, bottom, width, height) of every piece of wall and every closed door."""
        return self.rooms.blocks(np.asarray(observation["doors"]) > 0.5)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Start episodes.

        Args:
            seed: one seed for each environment; a single number s means s, s + 1, ...
            options: for evaluation, "task_id", 1 to `num_tasks`, and "episode", (N,): the number of an episode of the task,
                modulo the number of episodes.
        """
        n = self.num_envs
        if seed is None or isinstance(seed, int):
            seed = [None if seed is None else seed + i for i in range(n)]
        self._rngs = [np.random.default_rng(s) for s in seed]
        self._steps = 0
        self._agent, self._goal, self._distractor, self._heading = (np.zeros((n, 2)) for _ in range(4))
        self._layout = np.zeros(n, int)
        self._jump = np.zeros(n, int)
        self._ended = np.zeros(n, bool)
        self._unaware = np.zeros(n, bool)
        self._budget = np.full(n, np.iinfo(int).max)
        goal_distractor = np.zeros((n, 2))
        options = options or {}
        for i, rng in enumerate(self._rngs):
            if self.behaviour is None:
                task = self._task(options.get("task_id", 1))
                number = int(np.broadcast_to(options.get("episode", i), n)[i]) % task.num_episodes
                self._agent[i], self._goal[i] = task.start[number], task.goal[number]
                self._layout[i], self._budget[i] = task.layout[number], task.budget
                distractor, goal_distractor[i] = task.distractor[number], task.goal_distractor[number]
                angle = task.heading[number]
            else:
                self._layout[i] = self.version.draw_layout(self.rooms.num_doors, rng)
                self._agent[i], self._goal[i], distractor = (self.rooms.draw_free(rng) for _ in range(3))
                angle = rng.uniform(0, 2 * np.pi)
                self._unaware[i] = self.behaviour == "explore" and rng.random() < 0.5
            self._place_distractor(i, distractor, angle)
        goal = self._observe(self._goal, goal_distractor)
        return self._observe(self._agent, self._distractor), {"goal": goal} | self._expert()

    def step(self, actions: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict]:
        """Step with actions (N, 2) in [-1, 1]. An environment whose episode has ended continues; "ended" stays true."""
        self._steps += 1
        self._agent = self.rooms.move(self._agent, SPEED * np.clip(actions, -1, 1), self._layout)
        self._distractor = self.rooms.move(self._distractor, SPEED * self._heading, self._layout)
        for i in np.flatnonzero(self._steps >= self._jump).tolist():
            rng = self._rngs[i]
            self._place_distractor(i, self.rooms.draw_free(rng), rng.uniform(0, 2 * np.pi))
        success = np.linalg.norm(self._agent - self._goal, axis=1) < GOAL_RADIUS
        if self.behaviour is not None:
            gives_up = [
                unaware and rng.random() < 1 / GIVE_UP_STEPS
                for unaware, rng in zip(self._unaware, self._rngs, strict=True)
            ]
            for i in np.flatnonzero(success | gives_up):
                self._goal[i] = self.rooms.draw_free(self._rngs[i])
        else:
            self._ended |= success | (self._steps >= self._budget)
        nothing = np.zeros(self.num_envs)
        infos = {"success": success, "ended": self._ended.copy()} | self._expert()
        return self._observe(self._agent, self._distractor), nothing, nothing > 0, nothing > 0, infos

    def _task(self, number: int) -> Task:
        if not 1 <= number <= self.num_tasks:
            raise ValueError(f"task_id is {number}; expected 1 to {self.num_tasks}")
        return self.tasks[number - 1]

    def _place_distractor(self, i: int, position: np.ndarray, angle: float) -> None:
        self._distractor[i], self._heading[i] = position, (np.cos(angle), np.sin(angle))
        # time to the next jump, if a jump has this probability at every step
        self._jump[i] = self._steps + self._rngs[i].geometric(1 - np.exp(-1 / TELEPORT_STEPS))

    def _expert(self) -> dict[str, np.ndarray]:
        """The direction of the shortest path, while data are collected."""
        if self.behaviour is None:
            return {}
        aware = expert(self.rooms, self._agent, self._goal, self._layout)
        if not self._unaware.any():
            return {"expert_action": aware}
        unaware = expert(self.open_rooms, self._agent, self._goal, np.zeros(self.num_envs, int))
        return {"expert_action": np.where(self._unaware[:, None], unaware, aware)}

    def _observe(self, agent: np.ndarray, distractor: np.ndarray) -> dict[str, np.ndarray]:
        return _observed(self.renderer, agent, distractor, self._layout)


class FourRoom(gymnasium.Env):
    """A single environment.

    Observations are a dict:

        pixels      the frame, uint8 (R, R, 3)
        agent       position of the agent, world pixels, (2,)
        distractor  position of the distractor, world pixels, (2,)
        doors       1 for an open door, 0 for a closed one, (K,)

    Evaluation uses a fixed list of episodes for each task; `tasks.py` describes them.

    Args:
        side: rooms per side, 2 or 4.
        resolution: width and height of a frame, pixels.
        tasks: version of the evaluation tasks and of the layouts: v1, or, with `side=4`, unseen-v1 (data and tasks in different layouts).
        behaviour: `navigate` collects data: starts are random, every arrival draws a new goal, and infos hold an
            `expert_action`. With `explore`, the expert of half of the episodes takes every door for open, walks into closed ones, and gives up a goal after 40 steps on average; the
            data of `navigate` hardly show what a closed door does. None is for evaluation.
    """

    def __init__(self, *, side: int = 2, resolution: int = 64, tasks: str = "v1", behaviour: str | None = None) -> None:
        self._arguments = {"side": side, "resolution": resolution, "tasks": tasks, "behaviour": behaviour}
        self._one = FourRoomVector(1, **self._arguments)
        self.observation_space = self._one.single_observation_space
        self.action_space = self._one.single_action_space

    @property
    def num_tasks(self) -> int:
        return self._one.num_tasks

    @property
    def walls(self) -> list[Wall]:
        """(left, bottom, width, height) of every piece of wall, with all doors open."""
        return self._one.rooms.blocks()

    def walls_of(self, observation: Mapping[str, np.ndarray]) -> list[Wall]:
        """(left, bottom, width, height) of every piece of wall and every closed door."""
        return self._one.walls_of(observation)

    @property
    def oracle(self) -> FourRoomOracle:
        """What is true of the rooms."""
        return FourRoomOracle(self._one.rooms, self._one.renderer)

    def make_vector(self, num_envs: int) -> FourRoomVector:
        """`num_envs` environments like this one that advance together."""
        return FourRoomVector(num_envs, **self._arguments)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        super().reset(seed=seed)  # seeds gymnasium's generator, which is not used
        observation, infos = self._one.reset(seed=seed, options=options)
        return _first(observation), _first(infos)

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        observation, _, _, _, infos = self._one.step(np.asarray(action)[None])
        info = _first(infos)
        ended = bool(info.pop("ended"))
        return _first(observation), 0.0, bool(info["success"]) and ended, ended and not info["success"], info

    def captions(self, observations: Mapping[str, np.ndarray]) -> list[Caption]:
        """Descriptions of the position of the agent."""
        return describe(self._one.rooms, np.asarray(observations["agent"]))

    def render(self) -> np.ndarray:
        """The current frame, uint8 (R, R, 3)."""
        return self._one.renderer.frames(self._one._agent, self._one._distractor, self._one._layout)[0]


class FourRoomOracle:
    """The truth about the agent among the rooms; see `hiwm.envs.oracle`. The distractor stays where it is.

    Args:
        rooms: the map.
        renderer: draws observations.
    """

    def __init__(self, rooms: Rooms, renderer: Renderer) -> None:
        self.rooms, self.renderer = rooms, renderer

    def shortest_steps(self, start: Observations, goal: Observations) -> np.ndarray:
        """Steps at full speed; inf between two layouts."""
        layout = self._layout(start)
        length, _, _ = self.rooms.shortest(_agent(start), _agent(goal), layout)
        return np.where(layout == self._layout(goal), length / SPEED, np.inf)

    def along(self, start: Observations, goal: Observations, steps: float) -> Observations:
        at, wanted, layout = _agent(start), _agent(goal), self._layout(start)
        if not np.isfinite(steps):
            return self._observe(start, wanted, layout)
        for _ in range(round(steps)):
            left = np.linalg.norm(wanted - at, axis=1, keepdims=True)
            at = self.rooms.move(at, np.minimum(SPEED, left) * expert(self.rooms, at, wanted, layout), layout)
        return self._observe(start, at, layout)

    def simulate(self, start: Observations, actions: np.ndarray) -> Observations:
        at, layout = _agent(start), self._layout(start)
        for action in np.moveaxis(np.clip(actions, -1, 1), 1, 0):
            at = self.rooms.move(at, SPEED * action, layout)
        return self._observe(start, at, layout)

    def _layout(self, observations: Observations) -> np.ndarray:
        return self.rooms.layout_of(np.asarray(columns_of(observations)["doors"]))

    def _observe(self, start: Observations, agent: np.ndarray, layout: np.ndarray) -> Observations:
        return _observed(self.renderer, agent, np.asarray(columns_of(start)["distractor"], float), layout)


def _agent(observations: Observations) -> np.ndarray:
    return np.asarray(columns_of(observations)["agent"], float)


def _observed(
    renderer: Renderer, agent: np.ndarray, distractor: np.ndarray, layout: np.ndarray
) -> dict[str, np.ndarray]:
    return {
        "pixels": renderer.frames(agent, distractor, layout),
        "agent": agent.astype(np.float32),
        "distractor": distractor.astype(np.float32),
        "doors": renderer.rooms.is_open[layout].astype(np.float32),
    }


def _first(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: _first(value) if isinstance(value, dict) else value[0] for name, value in batch.items()}
