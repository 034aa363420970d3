"""What is refused before any work is lost on it: by what the config, the environment and the dataset show."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium
import yaml

from hiwm.build import build, locate
from hiwm.config import Config, ConfigError
from hiwm.data.store import Trajectories
from hiwm.planning.calibration import check_disagreement, steps_ahead
from hiwm.planning.proposals import Mixture
from hiwm.planning.text import check_text
from hiwm.tracking import flatten
from hiwm.training.stages import describe

# sections whose values a saved hierarchy depends on
TRAINED = ("inputs", "strides", "levels", "landmarks", "macros", "goal", "text", "prior", "cost_to_go", "training")


def environment_of(config: Config, more: Mapping[str, Any] | None = None) -> Callable[[], gymnasium.Env]:
    """What makes the environment, with some more arguments."""
    description = {**config.environment, **(more or {})}
    target = description.get("_target_")
    if target is None:
        raise ConfigError("environment has no _target_; it names the environment's class")
    locate(target, config.allow)
    return partial(build, description, config.allow)


def check(config: Config) -> None:
    """Refuse, before any work, what the config alone shows that training or planning would refuse."""
    levels = len(config.stack.levels)
    config.planner.check(levels)
    config.prior.check(levels)
    config.cost_to_go.check(levels, config.goal.columns)
    config.planner.check_learned(levels, config.prior.levels, config.cost_to_go.levels)
    _check_macros(config)
    if config.text.learn:
        try:
            check_text()
        except ImportError as error:
            raise ConfigError(f"text.learn is true: {error}") from error


def check_trained(config: Config) -> None:
    """Refuse a config that the saved hierarchy was not trained with."""
    saved = yaml.safe_load((config.folder / "config.yaml").read_text())
    wanted = config.as_dict()
    for key in TRAINED:
        if key not in saved:  # an older version's; the planner refuses what it cannot do without
            continue
        before, now = (flatten({key: described[key]}) for described in (saved, wanted))
        differ = [k for k in {**before, **now} if before.get(k) != now.get(k)]
        if differ:
            told = ", ".join(f"{k} {before.get(k, 'none')} (the config says {now.get(k, 'none')})" for k in differ[:5])
            raise ConfigError(
                f"{config.folder / 'hierarchy'} was trained with {told}; `hiwm train` with this config first, or give another name"
            )


def observed(config: Config) -> list[str]:
    """Columns that the environment's observations give a dataset."""
    space = environment_of(config)().observation_space
    return list(space) if isinstance(space, gymnasium.spaces.Dict) else [config.dataset.column]


def check_columns(config: Config, there: Sequence[str], where: object) -> None:
    """Refuse columns that an environment or a dataset does not have, by the key that asks for them."""
    for key, names in (("inputs", config.inputs), ("state", config.state), ("goal.columns", config.goal.columns)):
        if missing := [name for name in names if name not in there]:
            raise ConfigError(f"{key} holds {missing[0]!r}; allowed: {sorted(there)}, the columns of {where}")


def _check_macros(config: Config) -> None:
    """Refuse before training what the planner would refuse after it."""
    top = len(config.stack.levels) - 1
    for k in range(top + (config.planner.landmarks != "direct" or top == 0)):  # direct: the top level does not search
        horizon = config.planner.horizon[k]
        if Mixture.of(config.planner.proposal[k]).asks_bank and horizon > config.macros.length:
            raise ConfigError(
                f"macros.length is {config.macros.length}; allowed: at least planner.horizon[{k}], {horizon}, for "
                f"planner.proposal[{k}] is {config.planner.proposal[k]!r}"
            )


def check_calibrated(config: Config, dataset: Trajectories) -> None:
    """Refuse before training what the planner would refuse after it."""
    if not any(config.planner.disagreement):
        return
    specs = describe(config.stack, config.training, dataset, config.seed)
    for k, (spec, weight) in enumerate(zip(specs, config.planner.disagreement, strict=False)):
        predictor, period = spec.build(config.allow).predictor, math.prod(config.strides[: k + 1])
        if weight:
            steps = steps_ahead(predictor, dataset, period, config.dataset.validation)
            check_disagreement(k, weight, predictor, steps, config.planner.horizon[k])


def check_environment(config: Config, found: Any, where: object) -> None:
    """Refuse data, or a hierarchy, of another environment than the config's."""
    if found is not None and dict(found) != dict(config.environment):
        raise ConfigError(
            f"{where} belongs to the environment {dict(found)}, the config says {dict(config.environment)}"
        )
