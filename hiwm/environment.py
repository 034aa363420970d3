"""The environment of a configuration: its constructor, its observations and its captions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import gymnasium

from hiwm.build import build_as, check_described
from hiwm.config import Config, ConfigError
from hiwm.console import say
from hiwm.data.actions import fit_to_space
from hiwm.data.store import Trajectories
from hiwm.envs.captions import Caption
from hiwm.envs.contract import check_contract, naming_fault


def environment_of(config: Config, more: Mapping[str, Any] | None = None) -> Callable[[], gymnasium.Env]:
    """A function that makes the environment; `more` adds to its arguments."""
    description = {**config.environment, **(more or {})}
    try:
        check_described(gymnasium.Env, "environment", description, config.allow)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return partial(build_as, gymnasium.Env, "environment", description, config.allow)


def installed_environment(config: Config) -> gymnasium.Env | None:
    """The environment; None if the config has none, or its package is not installed here."""
    if not config.environment.get("_target_"):
        return None
    try:
        return environment_of(config)()
    except (ValueError, ImportError) as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, ImportError):
            cause = cause.__cause__
        if cause is None:
            raise
        return None


def check_collecting(config: Config) -> dict[str, tuple[int, ...]]:
    """Check the environment as it collects data; returns the shape of one row of every column."""
    return check_contract(environment_of(config, config.dataset.environment), _name(config), config.dataset.column)


def check_evaluating(config: Config) -> dict[str, tuple[int, ...]]:
    """Check the environment as it is evaluated, with goals and success; returns the shape of one row of every column."""
    make_env = environment_of(config, config.evaluation.environment)
    columns = config.goal.columns
    if not columns and config.evaluation.goal is None:  # a goal of your own may need other columns
        columns = config.inputs
    return check_contract(
        make_env, _name(config), config.dataset.column, goal=columns, num_tasks=config.evaluation.num_tasks
    )


def check_before_training(config: Config, dataset: Trajectories) -> Trajectories:
    """Check the environment that the levels will be evaluated in, if its package is installed here, and that it fits the data.

    Returns:
        The data, with discrete actions numbered as in the environment.
    """
    try:
        with naming_fault("the constructor", _name(config), (ValueError, ImportError)):
            env = environment_of(config)()
    except (ValueError, ImportError) as error:
        if isinstance(error, ImportError) or isinstance(error.__cause__, ImportError):
            say(f"{_name(config)} cannot be imported here, so it is checked only before the evaluation: {error}")
            return dataset
        raise
    for name, shape in check_evaluating(config).items():
        if name in config.inputs and shape != dataset.column(name).shape[1:]:
            raise ConfigError(
                f"{dataset.path}: the column {name} has the shape {dataset.column(name).shape[1:]}; expected {shape}, as in {_name(config)}"
            )
    return fit_to_space(dataset, env.action_space, _name(config))


def _name(config: Config) -> str:
    return str(config.environment.get("id") or config.environment.get("_target_"))


def captions_of(config: Config, dataset: Trajectories) -> list[Caption]:
    """Captions of the states in the data; an empty list if text.learn is false."""
    if not config.text.learn:
        return []
    environment: Any = environment_of(config)()
    try:
        describe = environment.get_wrapper_attr("captions")
    except AttributeError as error:
        raise ConfigError(
            f"text.learn is true, but {config.environment['_target_']} has no `captions`; expected an "
            "environment that has, see hiwm/envs/__init__.py"
        ) from error
    named = isinstance(environment.observation_space, gymnasium.spaces.Dict)
    return describe(dataset.columns if named else dataset.column(config.dataset.column))
