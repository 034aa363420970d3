"""The environment of a configuration: its constructor, its observations and its captions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import gymnasium

from hiwm.build import ENVIRONMENTS, build, locate
from hiwm.config import Config, ConfigError
from hiwm.data.store import Trajectories
from hiwm.envs.captions import Caption


def environment_of(config: Config, more: Mapping[str, Any] | None = None) -> Callable[[], gymnasium.Env]:
    """A function that makes the environment; `more` adds to its arguments."""
    description = {**config.environment, **(more or {})}
    target = description.get("_target_")
    if target is None:
        raise ConfigError("environment has no _target_; expected the class of the environment")
    locate(target, config.allow, ENVIRONMENTS)
    return partial(build, description, config.allow, kinds=ENVIRONMENTS)


def observed_columns(config: Config) -> list[str]:
    """Columns that observations of the environment form in a dataset."""
    space = environment_of(config)().observation_space
    return list(space) if isinstance(space, gymnasium.spaces.Dict) else [config.dataset.column]


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
