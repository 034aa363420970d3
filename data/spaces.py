"""The spaces of an environment as hiwm uses them: observations in flat columns, actions as a vector or as a number from 0."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

Convert = Callable[[Any], np.ndarray]


class FlatSpaces(gymnasium.Wrapper):
    """Observations are one array or a flat dict of named arrays, and actions are a vector or a number from 0.

    A dict within a dict becomes columns with dotted names: `{"arm": {"angle": x}}` has the column `arm.angle`. A "/" in a
    name becomes a dot too, because HDF5 would take it for a group. An array without axes gets one. Discrete parts become
    one-hot vectors, and a tuple becomes one vector. Parts of a dict without a fixed number of numbers, such as text, are
    left out. The goal and the expert's action in the info are converted in the same way.

    Args:
        env: the environment.

    Raises:
        ValueError: a space that cannot be converted.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self._columns: dict[str, tuple[tuple[str, ...], Convert]] = {}
        self._whole: Convert | None = None
        space = env.observation_space
        if isinstance(space, spaces.Dict):
            self.observation_space = spaces.Dict(self._flat_columns(space))
        else:
            self.observation_space, self._whole = _flat(space)
        own, self._to_env, self._from_env = _actions(env.action_space)
        self.action_space: Any = own

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        observation, info = self.env.reset(seed=seed, options=options)
        return self._observation(observation), self._info(info)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        observation, reward, terminated, truncated, info = self.env.step(self._to_env(action))
        found = self._observation(observation)
        self._check_shapes(found)
        return found, reward, terminated, truncated, self._info(info)

    def _check_shapes(self, observation: Any) -> None:
        """Refuse another shape than that of the space in the middle of an episode."""
        space: Any = self.observation_space
        pairs = (
            [("", space, observation)] if self._whole else [(f" {n}", box, observation[n]) for n, box in space.items()]
        )
        for name, box, value in pairs:
            if value.shape != box.shape:
                raise ValueError(
                    f"{self.env.unwrapped!r}: the observation{name} has the shape {value.shape}; expected {box.shape}, as its space says"
                )

    def _flat_columns(self, space: spaces.Dict) -> dict[str, spaces.Space]:
        """The box of every column; remembers where each is found and how it is converted."""
        boxes: dict[str, spaces.Space] = {}
        for path, part in _leaves(space):
            name = ".".join(path).replace("/", ".")
            if name in boxes:
                raise ValueError(f"two parts of the observation are called {name!r}; expected different names: {space}")
            try:
                boxes[name], convert = _flat(part)
            except ValueError:
                continue
            self._columns[name] = path, convert
        if not boxes:
            raise ValueError(f"the observation space is {space}; expected at least one part that is made of numbers")
        return boxes

    def _observation(self, observation: Any) -> Any:
        if self._whole is not None:
            return self._whole(observation)
        return {name: convert(_at(observation, path)) for name, (path, convert) in self._columns.items()}

    def _info(self, info: dict[str, Any]) -> dict[str, Any]:
        if "goal" in info:
            info = {**info, "goal": self._goal(info["goal"])}
        if "expert_action" in info:
            info = {**info, "expert_action": self._from_env(info["expert_action"])}
        return info

    def _goal(self, goal: Any) -> Any:
        """An observation, or the columns that are given of one."""
        if self._whole is not None:
            try:
                return self._whole(goal)
            except (IndexError, TypeError, ValueError):  # not an observation; the check of the contract says so
                return np.asarray(goal)
        if not isinstance(goal, Mapping):
            return np.asarray(goal)
        return {n: convert(_at(goal, path)) for n, (path, convert) in self._columns.items() if _holds(goal, path)}


def _leaves(space: spaces.Dict, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], spaces.Space]]:
    for name, part in space.items():
        if isinstance(part, spaces.Dict):
            yield from _leaves(part, (*path, name))
        else:
            yield (*path, name), part


def _at(value: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        value = value[name]
    return value


def _holds(value: Any, path: tuple[str, ...]) -> bool:
    for name in path:
        if not isinstance(value, Mapping) or name not in value:
            return False
        value = value[name]
    return True


def _flat(space: spaces.Space) -> tuple[spaces.Box, Convert]:
    """The box of an observation, or of a part of one, and the function that converts it."""
    if isinstance(space, spaces.Box):
        _refuse_empty(space, "observation")
        if space.shape:
            return space, partial(np.asarray, dtype=space.dtype)
        box: Any = spaces.Box(space.low.reshape(1), space.high.reshape(1), (1,), space.dtype)
        return box, partial(np.array, dtype=space.dtype, ndmin=1)
    if _is_numeric(space):
        box = spaces.flatten_space(space)
        return box, partial(_flattened, space)
    raise ValueError(
        f"the observation space is {space}; expected numbers: Box, Discrete, MultiDiscrete, MultiBinary, or a Tuple or Dict "
        "of them. Convert it in a gymnasium.ObservationWrapper"
    )


def _is_numeric(space: spaces.Space) -> bool:
    parts: list[spaces.Space] = []
    if isinstance(space, spaces.Tuple):
        parts = list(space.spaces)
    elif isinstance(space, spaces.Dict):
        parts = list(space.spaces.values())
    else:
        return isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary)
    return all(map(_is_numeric, parts))


def _flattened(space: spaces.Space, value: Any) -> np.ndarray:
    flat: Any = spaces.flatten(space, value)
    return np.asarray(flat)


def _refuse_empty(space: spaces.Box, what: str) -> None:
    if 0 in space.shape:
        raise ValueError(f"the {what} space is {space}, of the shape {space.shape}; expected at least one number")


def _actions(space: spaces.Space) -> tuple[spaces.Space, Convert, Convert]:
    """The flat action space, and the functions that convert actions to the environment's and back."""
    if isinstance(space, spaces.Discrete):
        start = int(space.start)
        return spaces.Discrete(int(space.n)), lambda action: action + start, lambda action: np.asarray(action) - start
    if not isinstance(space, spaces.Box):
        raise ValueError(
            f"the action space is {space}; expected a Box or a Discrete. Convert it in a gymnasium.ActionWrapper, for instance "
            "several choices into one Discrete of all combinations"
        )
    _refuse_empty(space, "action")
    low, high = (np.asarray(bound, np.float32).reshape(-1) for bound in (space.low, space.high))
    flat = spaces.Box(low, high, low.shape, np.float32)

    def to_env(action: Any) -> np.ndarray:
        found = np.asarray(action, np.float64).reshape(space.shape)
        if not np.issubdtype(space.dtype, np.floating):
            found = np.rint(found)
        return np.clip(found, space.low, space.high).astype(space.dtype)  # float32 may round to beyond a bound

    return flat, to_env, lambda action: np.asarray(action).reshape(-1)
