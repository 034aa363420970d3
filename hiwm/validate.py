"""Checks that run before any work: the config against the environment, the dataset and the levels."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hiwm.agent import CONFIG, HIERARCHY, Agent, load_agent
from hiwm.build import check_described
from hiwm.config import Config, ConfigError
from hiwm.data.actions import ActionRange
from hiwm.data.columns import read_rows
from hiwm.data.store import Trajectories
from hiwm.files import read_yaml, saved_folder
from hiwm.heads.calibration import calibrated_steps
from hiwm.heads.heads import Heads
from hiwm.heads.text import check_text
from hiwm.hierarchy import Hierarchy
from hiwm.planning.assemble import COST_ARGUMENTS, make_checks, make_models, make_strategies, split_budget
from hiwm.planning.config import PlannerConfig
from hiwm.planning.costs import Cost
from hiwm.planning.counter import ForwardCounter
from hiwm.planning.goals import Goal
from hiwm.planning.validate import check_config, check_heads, check_levels
from hiwm.tracking import flatten
from hiwm.training.diagnostics.runner import Diagnostics
from hiwm.training.specs import describe, level_fingerprints
from hiwm.training.windows import check_longest, check_split

# sections of what is fitted to trained levels, and keys whose values a saved hierarchy depends on
FITTED = ("graph", "action_bank", "goal", "text", "action_prior", "value")
TRAINED = ("inputs", "levels", "training", *FITTED)
VARIATION_ROWS, MOST_ELEMENTS = 200, 256  # of a column, that are looked at
COARSE = 64  # steps of float32 in a standard deviation, below which rounding shows

log = logging.getLogger("hiwm")


def check(config: Config) -> None:
    """Refuse, before any work, what the config alone shows that training or planning would refuse."""
    Diagnostics.from_config(config.diagnostics, config.allow)
    levels = len(config.hierarchy.levels)
    config.action_prior.check(levels)
    config.value.check(levels, config.goal.columns)

    _for_every_agent(config, partial(_check_agent, config))
    if config.evaluation.goal is not None:
        check_described(Goal, "evaluation.goal", config.evaluation.goal, config.allow, ("agent", "observation"))
    if config.text.learn:
        try:
            check_text()
        except ImportError as error:
            raise ConfigError(f"text.learn is true: {error}") from error


def _check_agent(config: Config, planner: PlannerConfig, num_levels: int) -> None:
    """Refuse how an agent with so many levels is to plan, before there are data or levels."""
    check_config(planner, num_levels)
    banks = [config.action_bank.length] * num_levels
    check_heads(planner, num_levels, config.action_prior.levels, config.value.levels, banks)
    make_strategies(planner, num_levels - 1, discrete=False, allow=config.allow)
    for k in range(num_levels):
        for name, cost in planner.level(k).costs.items():
            check_described(Cost, f"planner.level{k}.costs.{name}", cost, config.allow, COST_ARGUMENTS)
    if planner.failure_penalty and planner.graph != "none" and config.graph.transitions != "deterministic":
        raise ConfigError(
            f"graph.transitions is {config.graph.transitions!r}; expected deterministic, because planner.failure_penalty is "
            f"{planner.failure_penalty} and a failed path cannot be distinguished from bad luck. Or set the penalty to 0"
        )


def load_trained(config: Config, device: str = "cpu") -> Agent:
    """The saved agent with the planner of the config, if it was trained with this config."""
    home = config.folder / HIERARCHY
    path = _saved_config(config)
    if path.exists():  # the environment first: all else differs too in a command without the keys of the run
        check_environment(config, read_yaml(path).get("environment"), home)
    agent = load_agent(home, device, config.allow, planner=config.planner, seed=config.seed)
    check_environment(config, agent.spec.environment, home)
    check_trained(config, agent)
    return agent


def _saved_config(config: Config) -> Path:
    path = saved_folder(config.folder / HIERARCHY) / CONFIG
    return path if path.exists() else config.folder / CONFIG  # older versions saved none with the levels


def check_trained(config: Config, agent: Agent) -> None:
    """Refuse a config that the saved hierarchy, of which `agent` was loaded, was not trained with."""
    home = config.folder / HIERARCHY
    saved = read_yaml(_saved_config(config))
    wanted = config.as_dict()
    for key in TRAINED:
        if key not in saved:  # of an older version; the planner refuses what it needs
            continue
        if differ := differences({key: saved[key]}, {key: wanted[key]}):
            raise ConfigError(
                f"{home} was trained with {', '.join(differ[:5])}; run `hiwm train` with this config first, or give another name"
            )
    found, given = (
        [spec.fingerprint for spec in agent.hierarchy.specs],
        level_fingerprints(config.hierarchy, config.training, agent.spec.dataset, config.seed),
    )
    if found != given:
        raise ConfigError(
            f"{home} holds the levels {', '.join(found)}; expected {', '.join(given)}, those of this config. Run `hiwm train` with "
            "this config first, or give another name"
        )


def differences(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What differs between saved values and those of the config, in words."""
    before, now = flatten(saved), flatten(wanted)
    differ = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return [f"{key} {before.get(key, 'none')} (the config says {now.get(key, 'none')})" for key in differ]


def check_columns(config: Config, there: Sequence[str], where: object) -> None:
    """Refuse columns that an environment or a dataset does not have, by the key that asks for them."""
    for key, names in (("inputs", config.inputs), ("state", config.state), ("goal.columns", config.goal.columns)):
        if missing := [name for name in names if name not in there]:
            raise ConfigError(
                f"{key} contains {missing[0]!r}; expected some of {sorted(there)}, the columns of {where}"
            )


def check_untrained(config: Config, dataset: Trajectories, actions: ActionRange) -> None:
    """Refuse before training what the planner would refuse after it, with untrained levels."""
    specs = describe(config.hierarchy, config.training, dataset, config.seed)
    whole = Hierarchy([spec.build(config.allow) for spec in specs], specs)
    calibrated = [
        calibrated_steps(level.predictor, dataset, period, config.dataset.validation)
        for level, period in zip(whole.levels, whole.periods, strict=True)
    ]
    bounds = torch.zeros(len(actions.low)), torch.zeros(len(actions.low))

    def check_with_levels(planner: PlannerConfig, num_levels: int) -> None:
        hierarchy = whole.truncate(num_levels)
        check_levels(planner, hierarchy, calibrated)
        models = make_models(planner, hierarchy, Heads(), bounds, actions.discrete, ForwardCounter())
        strategies = make_strategies(planner, num_levels - 1, actions.discrete, config.allow)
        split_budget(planner, models, strategies, make_checks(planner, models))

    _for_every_agent(config, check_with_levels)
    check_longest(config.hierarchy, int(dataset.ep_len.max()), dataset.path)
    check_split(config.hierarchy, dataset)
    _check_variation(config, dataset)
    if config.graph.num_nodes > dataset.num_steps:
        raise ConfigError(
            f"graph.num_nodes is {config.graph.num_nodes}; expected at most the rows of the data, {dataset.num_steps}"
        )


def _check_variation(config: Config, dataset: Trajectories) -> None:
    """Refuse inputs that never change, and warn of numbers that float32 cannot tell from one another."""
    some = dataset.rows[np.unique(np.linspace(0, dataset.num_steps - 1, VARIATION_ROWS).round().astype(int))]
    vary = False
    for name in dict.fromkeys([*config.inputs, *config.state]):
        values = read_rows(dataset.columns[name], some).reshape(len(some), -1)  # as stored
        values = values[:, np.linspace(0, values.shape[1] - 1, MOST_ELEMENTS).astype(int)].astype(np.float64)
        mean, std = values.mean(0), values.std(0)
        step = np.spacing(np.abs(np.float32(mean)))
        vary = vary or (name in config.inputs and bool((std > step).any()))
        if (coarse := (std < COARSE * step) & (std > 1e-13 * np.abs(mean))).any():
            log.warning(
                "%s: column %r varies by %.2g around %.7g, where neighbouring numbers of float32 are %.2g apart; subtract the "
                "mean from the column", dataset.path, name, std[coarse][0], mean[coarse][0], step[coarse][0],
            )  # fmt: skip
    if not vary and not any(dataset.statistics(name)[1].max() > 1e-6 for name in config.inputs):
        raise ConfigError(
            f"inputs is {config.inputs}, which never change in {dataset.path} as far as float32 can tell; expected columns that do"
        )


def _for_every_agent(config: Config, check_agent: Callable[[PlannerConfig, int], None]) -> None:
    """Check the planner and the number of levels of the hierarchical agent and of each baseline of the evaluation."""
    levels = len(config.hierarchy.levels)
    check_agent(config.planner, levels)
    for name in config.evaluation.baselines:
        try:
            check_agent(*config.evaluation.planner_of(name, config.planner, levels))
        except ValueError as error:
            raise ConfigError(f"evaluation.baselines.{name}: {error}") from error


def check_environment(config: Config, found: Any, where: object) -> None:
    """Refuse data, or a hierarchy, of another environment than the config's."""
    if found is not None and dict(found) != dict(config.environment):
        raise ConfigError(
            f"{where} belongs to the environment {dict(found)}, the config says {dict(config.environment)}. Repeat the keys of the "
            "run in every command (experiment=..., environment._target_=..., ...), or give another name"
        )
