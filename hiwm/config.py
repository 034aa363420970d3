"""The configuration: values in YAML (`configs/`, composed by Hydra), their schema here."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_type_hints

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hiwm.build import drop_foreign_arguments
from hiwm.checks import at_least, matches, spell, within
from hiwm.evaluation.evaluate import EvaluationConfig
from hiwm.planning.config import PlannerConfig
from hiwm.planning.cost_to_go import CostToGoConfig
from hiwm.planning.landmarks import LandmarkConfig
from hiwm.planning.macros import MacroConfig
from hiwm.planning.prior import PriorConfig
from hiwm.planning.readout import GoalConfig
from hiwm.planning.text import TextConfig
from hiwm.settings import Settings
from hiwm.training.loop import TrainingConfig
from hiwm.training.specs import StackConfig


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the key."""


@dataclass(frozen=True)
class DatasetConfig:
    """What to train on.

    Args:
        path: an HDF5 trajectory file or an OGBench `.npz`; `hiwm collect` makes the former.
        episodes: to collect, validation episodes included.
        steps: rows of an episode.
        seed: of the collection.
        column: name given to observations that are one array.
        behaviour: arguments added to the environment's while collecting.
        policy: behaviour policy, `_target_` and arguments.
        validation: share of the episodes held out (the last ones).
        workers: processes that collect; changes nothing but the time.
    """

    path: str
    episodes: int
    steps: int
    column: str
    policy: dict[str, Any]
    behaviour: dict[str, Any]
    seed: int = 0
    validation: float = 0.1
    workers: int = 2

    def __post_init__(self) -> None:
        at_least("dataset.", 1, steps=self.steps, workers=self.workers)
        at_least("dataset.", 2, episodes=self.episodes)  # one is held out
        within("dataset.", "(0, 1)", validation=self.validation)


@dataclass(frozen=True)
class Config:
    """One experiment.

    Args:
        name: of the experiment; its results lie in `root/name` (`root/name-seed<n>` for a seed other than 0).
        root: folder of all results.
        seed: of training and planning; starts and goals of the evaluation do not depend on it.
        device: auto, cpu or cuda.
        threads: torch threads; null for torch's choice.
        allow: packages trusted for `_target_`s besides hiwm's own.
        environment: `_target_` and arguments; see `hiwm.envs` for the contract.
        inputs: dataset columns that level 0 encodes.
        state: dataset columns of the true state, for the frozen readout while training.
        levels: parts of each level, level0, level1, ...
        tracking: mlflow, or none (needs no mlflow).
    """

    name: str
    root: str
    seed: int
    device: str
    threads: int | None
    allow: list[str]
    environment: dict[str, Any]
    inputs: list[str]
    state: list[str]
    levels: dict[str, Any]
    dataset: DatasetConfig
    training: TrainingConfig
    landmarks: LandmarkConfig
    macros: MacroConfig
    prior: PriorConfig
    cost_to_go: CostToGoConfig
    goal: GoalConfig
    text: TextConfig
    planner: PlannerConfig
    evaluation: EvaluationConfig
    tracking: str

    @property
    def folder(self) -> Path:
        """Where the experiment's results lie."""
        return Path(self.root) / (self.name if self.seed == 0 else f"{self.name}-seed{self.seed}")

    @property
    def stack(self) -> StackConfig:
        """The stack to train."""
        names = [f"level{k}" for k in range(len(self.levels))]
        if sorted(self.levels) != names:
            raise ConfigError(f"levels has the keys {sorted(self.levels)}; allowed: level0, level1, ... without a gap")
        return StackConfig(
            levels=[self.levels[name] for name in names],
            inputs=self.inputs,
            state=self.state,
            validation=self.dataset.validation,
            allow=self.allow,
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain containers, for YAML, JSON and MLflow."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {key: _plain(value) for key, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Settings):
        return value.as_dict()
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else copy.deepcopy(value)


def load_config(overrides: Sequence[str]) -> Config:
    """Compose `configs/config.yaml` with Hydra overrides, e.g. ["experiment=pointmaze-large-navigate", "seed=1"].

    Raises:
        ConfigError: an unknown key or group, or a value of the wrong type; the message names it.
    """
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("hiwm.configs", version_base="1.3"):
            composed = compose("config", list(overrides))
        plain = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explained(error, list(overrides))) from error
    assert isinstance(plain, dict)
    plain = {str(key): value for key, value in plain.items()}
    plain = drop_foreign_arguments(plain, overrides, plain.get("allow") or ())
    config = _typed(Config, plain, "")
    if config.tracking not in ("mlflow", "none"):
        raise ConfigError(f"tracking is {config.tracking!r}; allowed: mlflow, none")
    if config.device.split(":")[0] not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device is {config.device!r}; allowed: auto, cpu, cuda")
    for key in ("inputs", "state"):
        if not getattr(config, key):
            raise ConfigError(f"{key} is empty; allowed: at least one entry")
    return config


def _typed(kind: Any, values: dict[str, Any], where: str) -> Any:
    """A dataclass from plain values; unknown keys and wrong types are refused by name."""
    hints = get_type_hints(kind)
    known = {field.name for field in fields(kind)}
    if unknown := set(values) - known:
        raise ConfigError(f"unknown key {where}{sorted(unknown)[0]}; allowed: {', '.join(sorted(known))}")
    arguments = {}
    for key, value in values.items():
        hint = hints[key]
        if isinstance(hint, type) and issubclass(hint, Settings) and isinstance(value, dict):
            try:
                value = hint(**value)
            except ValueError as error:
                raise ConfigError(str(error)) from error
        elif isinstance(hint, type) and issubclass(hint, Settings):
            raise ConfigError(f"{where}{key} is {value!r}; expected a mapping")
        elif is_dataclass(hint) and isinstance(value, dict):
            value = _typed(hint, value, f"{where}{key}.")
        elif is_dataclass(hint):
            raise ConfigError(f"{where}{key} is {value!r}; allowed: a mapping")
        elif not matches(value, hint):
            raise ConfigError(f"{where}{key} is {value!r}; allowed: {spell(hint)}")
        arguments[key] = value
    try:
        return kind(**arguments)
    except TypeError as error:
        raise ConfigError(f"{where.rstrip('.') or 'config'}: {error}") from error


def _explained(error: Exception, overrides: list[str]) -> str:
    """Hydra's message in one line; for an unknown key, the keys there are."""
    told = f"{error}\n{error.__cause__ or error}".split("Config search path")[0]
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    message = " ".join(list(dict.fromkeys(lines))[:16])
    unknown = re.match(r"Could not override '([\w.]+)'", message)
    if unknown is None:
        return message
    with initialize_config_module("hiwm.configs", version_base="1.3"):
        there: Any = compose("config", [override for override in overrides if unknown[1] not in override])
    path = unknown[1].split(".")
    for i, name in enumerate(path):
        if not isinstance(there, Mapping | DictConfig):
            break
        if name not in there:
            keys = sorted(map(str, there))
            whole = ".".join(path[: i + 1])
            new = f", or +{whole}=... for one that is not spelt out" if path[0] == "levels" and i > 1 else ""
            return f"unknown key {whole}; allowed: {', '.join(keys) or 'none'}{new}" + _nearest(name, keys)
        there = there[name]
    return message


def _nearest(name: str, names: list[str]) -> str:
    found = get_close_matches(name, names, 1)
    return f". Did you mean {found[0]}?" if found else ""
