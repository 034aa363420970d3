"""What is refused before any work: rules between the config, the environment, the dataset and the levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import yaml

from hiwm.build import locate
from hiwm.config import Config, ConfigError
from hiwm.data.actions import is_one_hot
from hiwm.data.store import Trajectories
from hiwm.heads.calibration import calibrated_steps
from hiwm.heads.heads import Heads
from hiwm.heads.text import check_text
from hiwm.hierarchy import Hierarchy
from hiwm.planning.assemble import make_models, make_strategies
from hiwm.planning.counter import ForwardCounter
from hiwm.planning.validate import check_config, check_disagreement, check_fitted, check_levels
from hiwm.tracking import flatten
from hiwm.training.diagnostics.runner import Diagnostics
from hiwm.training.specs import describe
from hiwm.training.windows import check_longest

# sections of what is fitted to trained levels, and keys whose values a saved hierarchy depends on
FITTED = ("graph", "action_bank", "goal", "text", "action_prior", "value")
TRAINED = ("inputs", "levels", "training", *FITTED)


def check(config: Config) -> None:
    """Refuse, before any work, what the config alone shows that training or planning would refuse."""
    Diagnostics.from_config(config.diagnostics, config.allow)
    levels = len(config.hierarchy.levels)
    check_config(config.planner, levels)
    config.action_prior.check(levels)
    config.value.check(levels, config.goal.columns)
    check_fitted(config.planner, levels, config.action_prior.levels, config.value.levels)
    _check_action_bank(config)
    if (
        config.planner.failure_penalty
        and config.planner.graph != "none"
        and config.graph.transitions != "deterministic"
    ):
        raise ConfigError(
            f"graph.transitions is {config.graph.transitions!r}; expected deterministic, because planner.failure_penalty is "
            f"{config.planner.failure_penalty} and a failed path cannot be told from bad luck. Or set the penalty to 0"
        )
    named = {} if config.evaluation.goal is None else {"evaluation.goal": config.evaluation.goal}
    for k in range(levels):
        named |= {f"planner.level{k}.costs.{name}": dict(cost) for name, cost in config.planner.level(k).costs.items()}
    for key, described in named.items():
        try:
            locate(str(described.get("_target_")), config.allow)
        except ValueError as error:
            raise ConfigError(f"{key}: {error}") from error
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
        if key not in saved:  # of an older version; the planner refuses what it needs
            continue
        before, now = (flatten({key: described[key]}) for described in (saved, wanted))
        differ = [k for k in {**before, **now} if before.get(k) != now.get(k)]
        if differ:
            found = ", ".join(f"{k} {before.get(k, 'none')} (the config says {now.get(k, 'none')})" for k in differ[:5])
            raise ConfigError(
                f"{config.folder / 'hierarchy'} was trained with {found}; run `hiwm train` with this config first, or give another name"
            )


def check_columns(config: Config, there: Sequence[str], where: object) -> None:
    """Refuse columns that an environment or a dataset does not have, by the key that asks for them."""
    for key, names in (("inputs", config.inputs), ("state", config.state), ("goal.columns", config.goal.columns)):
        if missing := [name for name in names if name not in there]:
            raise ConfigError(
                f"{key} contains {missing[0]!r}; expected some of {sorted(there)}, the columns of {where}"
            )


def _check_action_bank(config: Config) -> None:
    """Refuse before training what the planner would refuse after it."""
    planner, top = config.planner, len(config.hierarchy.levels) - 1
    for k in range(top + 1):
        horizon = planner.level(k).horizon
        if planner.searches(k, top) and planner.proposal(k, top).needs_bank and horizon > config.action_bank.length:
            raise ConfigError(
                f"action_bank.length is {config.action_bank.length}; expected at least planner.level{k}.horizon, {horizon}, "
                f"because planner.level{k}.proposal asks for retrieval"
            )


def check_untrained(config: Config, dataset: Trajectories, actions: np.ndarray) -> None:
    """Refuse before training what the planner would refuse after it, with untrained levels."""
    specs = describe(config.hierarchy, config.training, dataset, config.seed)
    hierarchy = Hierarchy([spec.build(config.allow) for spec in specs], specs)
    check_levels(config.planner, hierarchy)
    for k, level in enumerate(hierarchy.levels):
        if config.planner.level(k).disagreement:
            steps = calibrated_steps(level.predictor, dataset, hierarchy.periods[k], config.dataset.validation)
            check_disagreement(config.planner, k, level.predictor, steps)
    bounds = torch.zeros(actions.shape[1]), torch.zeros(actions.shape[1])
    discrete = is_one_hot(actions)
    models = make_models(config.planner, hierarchy, Heads(), bounds, discrete, ForwardCounter())
    make_strategies(config.planner, models, discrete, config.allow)
    check_longest(config.hierarchy, int(dataset.ep_len.max()), dataset.path)
    if config.graph.num_nodes > dataset.num_steps:
        raise ConfigError(
            f"graph.num_nodes is {config.graph.num_nodes}; expected at most the rows of the data, {dataset.num_steps}"
        )


def check_environment(config: Config, found: Any, where: object) -> None:
    """Refuse data, or a hierarchy, of another environment than the config's."""
    if found is not None and dict(found) != dict(config.environment):
        raise ConfigError(
            f"{where} belongs to the environment {dict(found)}, the config says {dict(config.environment)}"
        )


def actions_of(dataset: Trajectories) -> np.ndarray:
    """The actions of the data (N, A), without those of the episodes' last rows, which lead nowhere."""
    leads = np.ones(len(dataset.column("action")), bool)
    leads[dataset.ep_offset + dataset.ep_len - 1] = False
    actions = dataset.column("action")[leads].reshape(int(leads.sum()), -1)
    if not np.isfinite(actions).all():
        raise ConfigError(f"{dataset.path}: column 'action' has values that are not finite numbers")
    return actions
