"""Any registered Gymnasium environment by its id, with a goal and success from the conventions of its package.

The first of these that the environment has is used:

    goal                                                              success
    `desired_goal` in the observation (GoalEnv; Gymnasium-Robotics,   `success` or `is_success` in the info
    panda-gym, highway-env), a goal on the part `achieved_goal`
    `goal` in the info of `reset` (OGBench)                           `success` or `is_success` in the info
    `goal_<column>` in the info of `reset` (stable-worldmodel)        `success` or `is_success` in the info, else `terminated`
    none: an observation that random actions reach from the start     distance to the goal within `tolerance`

Where a goal is given and success is not, the distance decides too.
"""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from hiwm.data.policies import UniformPolicy
from hiwm.data.spaces import FlatSpaces

ACHIEVED, DESIRED = "achieved_goal", "desired_goal"
SUCCESS = ("success", "is_success")
NEVER = 10**9  # steps; evaluation.max_steps and dataset.steps end episodes, not the time limit of the environment
HELD = 5  # steps that a random action is held on the way to a goal
EPISODES = 10  # random episodes that the standard deviations are computed from


class GymEnvironment(gymnasium.Wrapper):
    """A registered environment that fulfils the contract of `hiwm.envs`.

    Args:
        id: as for `gymnasium.make`. The part before a colon is imported first, e.g. "minigrid:MiniGrid-Empty-5x5-v0".
        arguments: of the environment, for `gymnasium.make`.
        goal_steps: random steps to a goal, for environments that give none.
        tolerance: largest root mean square distance to the goal that is a success, in standard deviations of the observation
            under random actions; for environments that do not report success.
    """

    def __init__(
        self, *, id: str, arguments: Mapping[str, Any] | None = None, goal_steps: int = 50, tolerance: float = 0.25
    ) -> None:
        made = make(id, dict(arguments or {}))
        #: evaluation tasks: OGBench's, else one, whose episodes differ in their seeds
        self.num_tasks = int(getattr(made.unwrapped, "num_tasks", 1))
        self._has_tasks = hasattr(made.unwrapped, "num_tasks")
        super().__init__(made if _is_goal_env(made) else FlatSpaces(made))
        self._described = json.dumps([id, dict(arguments or {})], sort_keys=True)
        self.goal_steps, self.tolerance = goal_steps, tolerance
        if _is_goal_env(made):
            parts: Any = made.observation_space
            self.observation_space = gymnasium.spaces.Dict({k: v for k, v in parts.items() if k != DESIRED})
        self._goal: Any = None
        self._ends_with_success = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        task = (options or {}).get("task_id")
        inner = {"task_id": task} if self._has_tasks and task is not None else None
        seed = int(self.np_random.integers(2**31)) if seed is None else seed
        observation, info = self.env.reset(seed=seed, options=inner)
        self._goal, self._ends_with_success = self._given_goal(observation, info)
        if self._goal is None and task is not None:
            self._goal = self._reached_goal(seed)
            observation, info = self.env.reset(seed=seed, options=inner)
        return self._own(observation), {} if self._goal is None else {"goal": self._goal}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        observation = self._own(observation)
        return (
            observation,
            float(reward),
            terminated,
            truncated,
            {"success": self._success(observation, terminated, info)},
        )

    def _own(self, observation: Any) -> Any:
        if isinstance(observation, Mapping) and DESIRED in observation:
            return {name: value for name, value in observation.items() if name != DESIRED}
        return observation

    def _given_goal(self, observation: Any, info: Mapping[str, Any]) -> tuple[Any, bool]:
        """The goal of the episode, None if the environment gives none; whether its end means success."""
        if isinstance(observation, Mapping) and DESIRED in observation:
            return {ACHIEVED: np.array(observation[DESIRED])}, False
        if info.get("goal") is not None and _is_observation(info["goal"], observation):
            return info["goal"], False
        if not isinstance(observation, Mapping):
            goal = info.get("goal_state")
            return (goal, True) if _is_observation(goal, observation) else (None, False)
        parts = {
            name: info[f"goal_{name}"]
            for name in observation
            if _is_observation(info.get(f"goal_{name}"), observation[name])
        }
        return (parts, True) if parts else (None, False)

    def _reached_goal(self, seed: int) -> Any:
        """The observation after some random steps from the start of this seed; at the last step, if the episode ends."""
        steps = int(np.random.default_rng([seed, 2]).integers(self.goal_steps // 2, self.goal_steps + 1))
        return random_walk(self.env, seed, steps)[-1]

    def _success(self, observation: Any, terminated: bool, info: Mapping[str, Any]) -> bool:
        for name in SUCCESS:
            if name in info:
                return bool(np.all(info[name]))
        if self._ends_with_success:
            return bool(terminated)
        if self._goal is None:
            return False
        std = _standard_deviations(self._described, self.goal_steps)
        goal = self._goal if isinstance(self._goal, Mapping) else {"": self._goal}
        now = observation if isinstance(observation, Mapping) else {"": observation}
        errors = [np.ravel(np.subtract(now[name], goal[name], dtype=np.float64) / std[name]) for name in goal]
        return bool(np.sqrt(np.mean(np.concatenate(errors) ** 2)) <= self.tolerance)


def make(id: str, arguments: Mapping[str, Any]) -> gymnasium.Env:
    """The environment without its time limit; raises a ValueError that says what is wrong with the id or the arguments."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the package, about versions and spaces
            return gymnasium.make(id, disable_env_checker=True, max_episode_steps=NEVER, **arguments)
    except ImportError as error:
        raise ValueError(f"environment.id is {id!r}, which cannot be imported: {error}. Install its package") from error
    except (gymnasium.error.Error, TypeError) as error:
        known = (
            ""
            if ":" in id
            else ". If a package registers it, name its module first, as in minigrid:MiniGrid-Empty-5x5-v0"
        )
        raise ValueError(f"environment.id is {id!r}, arguments are {dict(arguments)}: {error}{known}") from error


def suggested(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Config keys that follow from the environment: what level 0 sees, what goals are about, how many tasks there are."""
    env = GymEnvironment(**{name: value for name, value in environment.items() if name != "_target_"})
    found: dict[str, Any] = {"evaluation.num_tasks": env.num_tasks}
    flat = FlatSpaces(env)
    if isinstance(flat.observation_space, gymnasium.spaces.Dict):
        columns = list(flat.observation_space)
        _, info = flat.reset(seed=0, options={"task_id": 1})
        goal = list(info["goal"])
        found |= {"inputs": columns, "state": goal}
        found |= {"goal.columns": goal} if len(goal) < len(columns) else {}
    env.close()
    return found


def random_walk(env: gymnasium.Env, seed: int, steps: int) -> list[Any]:
    """Observations of random actions from the start of a seed, until the episode ends."""
    flat, policy = FlatSpaces(env), UniformPolicy(repeat=HELD)
    space: Any = flat.action_space
    policy.reset([seed], space, steps)
    observation, _ = flat.reset(seed=seed)
    seen = [observation]
    for step in range(steps):
        observation, _, terminated, truncated, _ = flat.step(policy.act(np.empty(0), {}, step)[0])
        seen.append(observation)
        if terminated or truncated:
            break
    return seen


@functools.cache
def _standard_deviations(described: str, steps: int) -> dict[str, np.ndarray]:
    """Of every column under random actions; "" for observations that are one array. Constant numbers have the std 1."""
    id, arguments = json.loads(described)
    env = make(id, arguments)
    seen = [observation for seed in range(EPISODES) for observation in random_walk(env, seed, steps)]
    env.close()
    named = [observation if isinstance(observation, Mapping) else {"": observation} for observation in seen]
    std = {name: np.std([observation[name] for observation in named], 0, dtype=np.float64) for name in named[0]}
    return {name: np.where(value > 1e-9, value, 1.0) for name, value in std.items()}


def _is_goal_env(env: gymnasium.Env) -> bool:
    space = env.observation_space
    return isinstance(space, gymnasium.spaces.Dict) and {ACHIEVED, DESIRED} <= set(space)


def _is_observation(goal: Any, observation: Any) -> bool:
    """Whether a goal has the form of an observation; stable-worldmodel also calls a picture of it `goal`."""
    if isinstance(observation, Mapping):
        return isinstance(goal, Mapping)
    return goal is not None and np.shape(goal) == np.shape(observation)
