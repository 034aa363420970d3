"""Checks that an environment fulfils the contract, by one reset and one step before any work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np

from hiwm.data.spaces import FlatSpaces

SEEDS = range(3)  # an environment ends at once if its first step ends the episode with every one of these seeds
CONTRACT = "See docs/environments.md, or use environment=gym for the environment of a package"


class ContractError(ValueError):
    """An environment that lacks something; the message names it."""


def check_contract(
    make_env: Callable[[], gymnasium.Env],
    name: object,
    column: str,
    *,
    goal: Sequence[str] | None = None,
    num_tasks: int = 1,
) -> dict[str, tuple[int, ...]]:
    """Make the environment, reset it and take one step.

    Args:
        make_env: makes one environment.
        name: of the environment, for messages.
        column: name of observations that are one array.
        goal: columns that the goal must have; None where no goal is needed, because the environment only collects data.
        num_tasks: tasks that will be evaluated; refused if the environment says that it has fewer.

    Returns:
        Shape of one row of every column that collecting writes: those of an observation, and action.

    Raises:
        ContractError: something is missing; the message says what to provide.
    """
    with naming_fault("the constructor", name, (ValueError, ImportError)):  # of the configuration
        env: Any = make_env()
    there = env.get_wrapper_attr("num_tasks") if env.has_wrapper_attr("num_tasks") else None
    if isinstance(there, int) and 0 < there < num_tasks:  # rooms have 0 tasks where they only collect data
        env.close()
        raise ContractError(f"evaluation.num_tasks is {num_tasks}; expected at most {there}, the num_tasks of {name}")
    first = _VectorRow(env.make_vector(1)) if hasattr(env, "make_vector") else _flat(env, name)
    try:
        for seed in SEEDS:
            observation, info = _reset(first, seed, name, evaluates=goal is not None)
            columns = _checked_columns(observation, first.observation_space, name, column)
            if goal is not None:
                _check_goal(info, columns, goal, name, column)
            first.action_space.seed(seed)
            after, reward, terminated, truncated, info = _step(first, name)
            _checked_columns(after, first.observation_space, name, column)
            if np.ndim(reward) or not isinstance(np.asarray(reward).item(), (int, float)):
                raise ContractError(f"{name}: the reward of step is {reward!r}; expected a number, for instance 0.0")
            if goal is not None:
                _check_success(info, name)
            if not (terminated or truncated or info.get("ended", False)):
                shapes = {name: value.shape for name, value in columns.items()}
                return shapes | {"action": _stored_shape(first.action_space)}
    finally:
        first.close()
    raise ContractError(
        f"{name}: the first step ended the episode with {len(SEEDS)} seeds; expected episodes of more than one step. Let step "
        "return terminated and truncated as false until the episode is over"
    )


def _stored_shape(space: Any) -> tuple[int, ...]:
    """Shape of an action in a dataset, where a discrete one is a one-hot vector."""
    return (int(space.n),) if isinstance(space, gymnasium.spaces.Discrete) else tuple(space.shape)


class _VectorRow:
    """The first environment of a vector environment, without its batch axis."""

    def __init__(self, envs: gymnasium.vector.VectorEnv) -> None:
        self.envs: Any = envs
        self.observation_space, self.action_space = envs.single_observation_space, envs.single_action_space

    def reset(self, *, seed: int, options: dict[str, Any]) -> tuple[Any, dict]:
        observations, infos = self.envs.reset(
            seed=[seed], options={name: [e] if name == "episode" else e for name, e in options.items()}
        )
        return _first(observations), _first(infos)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        observations, _, terminated, truncated, infos = self.envs.step(np.asarray(action)[None])
        return _first(observations), 0.0, bool(terminated[0]), bool(truncated[0]), _first(infos)

    def close(self) -> None:
        self.envs.close()


def _first(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {name: _first(value) for name, value in values.items() if not name.startswith("_")}
    return values[0]


def _flat(env: gymnasium.Env, name: object) -> FlatSpaces:
    for space in ("observation_space", "action_space"):
        if getattr(env, space, None) is None:
            raise ContractError(f"{name}: the environment has no {space}; expected a gymnasium space")
    try:
        return FlatSpaces(env)
    except ValueError as error:
        raise ContractError(f"{name}: {error}") from error


def _reset(env: Any, seed: int, name: object, evaluates: bool) -> tuple[Any, dict[str, Any]]:
    try:
        with naming_fault("reset", name, (TypeError,)):
            return env.reset(seed=seed, options={"task_id": 1, "episode": 0} if evaluates else {})
    except TypeError as error:
        raise ContractError(
            f"{name}: reset fails with {error}; expected reset(*, seed=None, options=None), which returns an observation and "
            "an info"
        ) from error


def _step(env: Any, name: object) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
    with naming_fault("step", name):
        return env.step(env.action_space.sample())


@contextmanager
def naming_fault(what: str, name: object, passed: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Name the environment in an error of its own, unless the error is one of those that have a message already."""
    try:
        yield
    except Exception as error:
        if isinstance(error, (*passed, ContractError)):
            raise
        raise ContractError(f"{name}: {what} fails with {type(error).__name__}: {error}") from error


def _check_success(info: Mapping[str, Any], name: object) -> None:
    if "success" not in info:
        raise ContractError(
            f"{name}: the info of step has {_names(info)}; expected success, true or false at every step. {CONTRACT}"
        )
    success = info["success"]
    if np.ndim(success) or np.asarray(success).dtype.kind not in "biuf" or not np.isfinite(success):
        raise ContractError(f"{name}: success in the info of step is {success!r}; expected true or false")


def _checked_columns(observation: Any, space: Any, name: object, column: str) -> dict[str, np.ndarray]:
    """The columns of an observation, if they are what the space says, and finite."""
    named = isinstance(space, gymnasium.spaces.Dict)
    boxes: Any = space.spaces if named else {column: space}
    columns = observation if named else {column: observation}
    for key, box in boxes.items():
        value = np.asarray(columns[key])
        if value.shape != box.shape:
            raise ContractError(
                f"{name}: the observation {key} has the shape {value.shape}; expected {box.shape}, as its space says"
            )
        if not np.issubdtype(value.dtype, np.number) and value.dtype != bool:
            raise ContractError(f"{name}: the observation {key} has the type {value.dtype}; expected numbers")
        if not np.isfinite(value).all():
            raise ContractError(
                f"{name}: the observation {key} is not finite; expected numbers without NaN and infinity"
            )
    return {key: np.asarray(columns[key]) for key in boxes}


def _check_goal(
    info: dict[str, Any], columns: dict[str, np.ndarray], wanted: Sequence[str], name: object, column: str
) -> None:
    if "goal" not in info:
        raise ContractError(
            f"{name}: the info of reset has {_names(info)}; expected goal, an observation that is to be reached. {CONTRACT}"
        )
    goal = info["goal"] if isinstance(info["goal"], Mapping) else {column: info["goal"]}
    if missing := [key for key in wanted if key not in goal]:
        raise ContractError(
            f"{name}: the goal has no {missing[0]}; expected all of {', '.join(wanted)}. If goals are about a part of the state, set "
            f"goal.columns=[{','.join(sorted(goal))}]"
        )
    for key, value in goal.items():
        if key in columns and np.shape(value) != columns[key].shape:
            raise ContractError(
                f"{name}: the goal's {key} has the shape {np.shape(value)}; expected {columns[key].shape}, like the observation"
            )
        if key in columns and not np.isfinite(np.asarray(value, np.float64)).all():
            raise ContractError(f"{name}: the goal's {key} is not finite; expected numbers without NaN and infinity")


def _names(info: Mapping[str, Any]) -> str:
    return ", ".join(sorted(map(str, info))) or "nothing"
