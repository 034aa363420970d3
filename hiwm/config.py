"""The configuration: values in YAML (`configs/`, composed by Hydra), their schema here."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, Literal

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field, field_validator

from hiwm.build import drop_foreign_arguments
from hiwm.envs.gym import suggested
from hiwm.evaluation.config import EvaluationConfig
from hiwm.heads.action_bank import ActionBankConfig
from hiwm.heads.action_prior import ActionPriorConfig
from hiwm.heads.state_readout import GoalConfig
from hiwm.heads.text import TextConfig
from hiwm.heads.value import ValueConfig
from hiwm.planning.config import PlannerConfig
from hiwm.planning.graph.landmarks import GraphConfig
from hiwm.settings import Settings
from hiwm.training.loop import TrainingConfig
from hiwm.training.specs import HierarchyConfig

GYM = "hiwm.envs.gym.GymEnvironment"


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the key."""


class DatasetConfig(Settings):
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

    section: ClassVar[str] = "dataset"

    path: str
    episodes: int = Field(ge=2)  # one is held out
    steps: int = Field(ge=1)
    column: str
    policy: dict[str, Any]
    behaviour: dict[str, Any]
    seed: int = 0
    validation: float = Field(default=0.1, gt=0, lt=1)
    workers: int = Field(default=2, ge=1)


class Config(Settings):
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
        levels: stride and parts of each level: level0, level1, ...
        diagnostics: added to the shipped ones: name -> `_target_` and arguments; see `hiwm.training.diagnostics`.
        tracking: mlflow, or none (needs no mlflow).
    """

    name: str
    root: str
    seed: int = Field(ge=0)
    device: str
    threads: int | None = Field(ge=1)
    allow: list[str]
    environment: dict[str, Any]
    inputs: list[str]
    state: list[str]
    levels: dict[str, Any]
    diagnostics: dict[str, Any]
    dataset: DatasetConfig
    training: TrainingConfig
    graph: GraphConfig
    action_bank: ActionBankConfig
    action_prior: ActionPriorConfig
    value: ValueConfig
    goal: GoalConfig
    text: TextConfig
    planner: PlannerConfig
    evaluation: EvaluationConfig
    tracking: Literal["mlflow", "none"]

    @field_validator("device")
    @classmethod
    def _known_device(cls, device: str) -> str:
        if device.split(":")[0] not in ("auto", "cpu", "cuda"):
            raise ValueError(f"device is {device!r}; expected auto, cpu, cuda or cuda:<n>")
        return device

    @field_validator("inputs", "state")
    @classmethod
    def _not_empty(cls, values: list[Any], info: Any) -> list[Any]:
        if not values:
            raise ValueError(f"{info.field_name} is empty; expected at least one entry")
        return values

    @property
    def folder(self) -> Path:
        """Where the experiment's results lie."""
        return Path(self.root) / (self.name if self.seed == 0 else f"{self.name}-seed{self.seed}")

    @property
    def hierarchy(self) -> HierarchyConfig:
        """The levels to train."""
        names = [f"level{k}" for k in range(len(self.levels))]
        if sorted(self.levels) != names:
            raise ConfigError(f"levels has the keys {sorted(self.levels)}; expected level0, level1, ... without a gap")
        return HierarchyConfig(
            levels=[self.levels[name] for name in names],
            inputs=self.inputs,
            state=self.state,
            validation=self.dataset.validation,
            allow=self.allow,
        )


def load_config(overrides: Sequence[str]) -> Config:
    """Compose `configs/config.yaml` with Hydra overrides, e.g. ["experiment=fourroom", "seed=1"].

    Raises:
        ConfigError: an unknown key or group, or a value of the wrong type or out of range; the message names it.
    """
    GlobalHydra.instance().clear()
    OmegaConf.register_new_resolver("choose", _choose, replace=True)
    if _chosen("environment", overrides) and not _chosen("experiment", overrides):
        overrides = ["experiment=custom", *overrides]  # the default is a point maze
    plain = _compose(overrides)
    if (plain.get("environment") or {}).get("_target_") == GYM:
        plain = _compose([*_of_gym(plain["environment"], overrides), *overrides])
    values = {str(key): value for key, value in plain.items()}
    try:
        return Config(**drop_foreign_arguments(values, overrides, values.get("allow") or ()))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _compose(overrides: Sequence[str]) -> dict[Any, Any]:
    """The composed config in plain containers."""
    try:
        with initialize_config_module("hiwm.configs", version_base="1.3"):
            composed = compose("config", list(overrides))
        plain = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explained(error, list(overrides))) from error
    assert isinstance(plain, dict)
    return plain


def _chosen(key: str, overrides: Sequence[str]) -> bool:
    return any(override.lstrip("+~").split("=")[0] == key for override in overrides)


def _of_gym(environment: Mapping[str, Any], overrides: Sequence[str]) -> list[str]:
    """Overrides that follow from the Gymnasium environment, of keys that the caller leaves out."""
    name = re.sub(r"[^\w.-]+", "-", environment["id"].split(":")[-1]).lower()
    try:
        found = {"name": name, **suggested(environment)}
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return [f"{key}={json.dumps(value)}" for key, value in found.items() if not _chosen(key, overrides)]


def _choose(key: str, table: Mapping[str, Any]) -> Any:
    """`${choose:key,{a:1,else:2}}` in a config: the entry of a key that depends on another one."""
    return table[key] if key in table else table["else"]


def _explained(error: Exception, overrides: list[str]) -> str:
    """Hydra's message in one line; for an unknown key, the keys there are."""
    text = f"{error}\n{error.__cause__ or error}".split("Config search path")[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
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
            known = f"one of {', '.join(keys)}" if keys else "no key"
            new = f". Write +{whole}=... for a key that the config leaves out" if path[0] == "levels" and i > 1 else ""
            return f"unknown key {whole}; expected {known}{new}" + _nearest(name, keys)
        there = there[name]
    return message


def _nearest(name: str, names: list[str]) -> str:
    found = get_close_matches(name, names, 1)
    return f". Did you mean {found[0]}?" if found else ""
