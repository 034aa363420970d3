"""What is refused before any work is lost on it: by what the config, the environment and the dataset show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import yaml

from hiwm.config import Config, ConfigError
from hiwm.data.store import Trajectories
from hiwm.hierarchy import Hierarchy
from hiwm.planning.calibration import check_disagreement, steps_ahead
from hiwm.planning.requirements import candidates_of, check_levels, solvers_of
from hiwm.planning.text import check_text
from hiwm.tracking import flatten
from hiwm.training.specs import describe
from hiwm.training.windows import check_longest

# sections of what is fitted to trained levels, and keys whose values a saved hierarchy depends on
FITTED = ("landmarks", "macros", "goal", "text", "prior", "cost_to_go")
TRAINED = ("inputs", "levels", "training", *FITTED)


def check(config: Config) -> None:
    """Refuse, before any work, what the config alone shows that training or planning would refuse."""
    levels = len(config.stack.levels)
    config.planner.check(levels)
    config.prior.check(levels)
    config.cost_to_go.check(levels, config.goal.columns)
    config.planner.check_learned(levels, config.prior.levels, config.cost_to_go.levels)
    _check_macros(config)
    if config.planner.feedback and config.planner.landmarks != "none" and config.landmarks.outcomes != "best":
        raise ConfigError(
            f"planner.feedback is {config.planner.feedback} and landmarks.outcomes {config.landmarks.outcomes!r}; allowed: best, "
            "for ways that failed cannot be told from bad luck, or a feedback of 0"
        )
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


def check_columns(config: Config, there: Sequence[str], where: object) -> None:
    """Refuse columns that an environment or a dataset does not have, by the key that asks for them."""
    for key, names in (("inputs", config.inputs), ("state", config.state), ("goal.columns", config.goal.columns)):
        if missing := [name for name in names if name not in there]:
            raise ConfigError(f"{key} holds {missing[0]!r}; allowed: {sorted(there)}, the columns of {where}")


def _check_macros(config: Config) -> None:
    """Refuse before training what the planner would refuse after it."""
    planner, top = config.planner, len(config.stack.levels) - 1
    for k in range(top + 1):
        horizon = planner.horizon[k]
        if planner.searches(k, top) and planner.mixture(k, top).asks_bank and horizon > config.macros.length:
            raise ConfigError(
                f"macros.length is {config.macros.length}; allowed: at least planner.horizon[{k}], {horizon}, for "
                f"planner.proposal[{k}] is {planner.proposal[k]!r}"
            )


def check_untrained(config: Config, dataset: Trajectories, actions: np.ndarray) -> None:
    """Refuse before training what the planner would refuse after it, by levels that have learned nothing yet."""
    specs = describe(config.stack, config.training, dataset, config.seed)
    hierarchy = Hierarchy([spec.build(config.allow) for spec in specs], specs)
    for k, level in enumerate(hierarchy.levels):
        if weight := config.planner.weight("disagreement", k):
            steps = steps_ahead(level.predictor, dataset, hierarchy.periods[k], config.dataset.validation)
            check_disagreement(k, weight, level.predictor, steps, config.planner.horizon[k])
    check_levels(config.planner, hierarchy)
    candidates_of(
        config.planner, hierarchy, solvers_of(config.planner, len(hierarchy), is_one_hot(actions), config.allow)
    )
    check_longest(config.stack, int(dataset.ep_len.max()), dataset.path)
    if config.landmarks.landmarks > dataset.num_steps:
        raise ConfigError(
            f"landmarks.landmarks is {config.landmarks.landmarks}; allowed: at most the data's rows, {dataset.num_steps}"
        )


def check_environment(config: Config, found: Any, where: object) -> None:
    """Refuse data, or a hierarchy, of another environment than the config's."""
    if found is not None and dict(found) != dict(config.environment):
        raise ConfigError(
            f"{where} belongs to the environment {dict(found)}, the config says {dict(config.environment)}"
        )


def is_one_hot(actions: np.ndarray) -> bool:
    """Whether all of them (N, A) are one-hot vectors, which is how discrete actions are stored."""
    return actions.shape[1] > 1 and bool(np.isin(actions, (0, 1)).all() and (actions.sum(1) == 1).all())


def actions_of(dataset: Trajectories) -> np.ndarray:
    """The actions of the data (N, A), without those of the episodes' last rows, which lead nowhere."""
    leads = np.ones(len(dataset.column("action")), bool)
    leads[dataset.ep_offset + dataset.ep_len - 1] = False
    actions = dataset.column("action")[leads].reshape(int(leads.sum()), -1)
    if not np.isfinite(actions).all():
        raise ConfigError(f"{dataset.path}: column 'action' has values that are not finite numbers")
    return actions
