"""The configuration: values in YAML (`configs/`, composed by Hydra), their schema here."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field, field_validator, model_validator

from hiwm.build import drop_foreign_arguments, given_keys
from hiwm.checks import file_name
from hiwm.envs.gym import suggested
from hiwm.evaluation.config import EvaluationConfig
from hiwm.files import LEVELS
from hiwm.heads.action_bank import ActionBankConfig
from hiwm.heads.action_prior import ActionPriorConfig
from hiwm.heads.state_readout import GoalConfig
from hiwm.heads.text import TextConfig
from hiwm.heads.value import ValueConfig
from hiwm.overrides import unreadable, without_effect
from hiwm.planning.config import PlannerConfig, absent_level
from hiwm.planning.graph.landmarks import GraphConfig
from hiwm.settings import Settings, is_open
from hiwm.training.loop import TrainingConfig
from hiwm.training.specs import HierarchyConfig

GYM = "hiwm.envs.gym.GymEnvironment"
ABSENT = "absent"  # in a level of an experiment that has fewer levels than its base; null would win over an override of the level


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
        environment: arguments of the environment that are added while collecting.
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
    environment: dict[str, Any]
    seed: int
    validation: float = Field(gt=0, lt=1)
    workers: int = Field(ge=1)


RESERVED = {"figures", "heads", "hierarchy"}  # folders of a run


class Config(Settings):
    """One experiment.

    Args:
        name: of the experiment.
        run: folder of the results, within that of the experiment. null: the experiment's folder itself for seed 0, `seed<n>`
            for other seeds. A sweep (`hiwm ... --multirun`) names it by the swept values.
        root: folder of all results.
        seed: of training and planning; starts and goals of the evaluation do not depend on it.
        device: auto, cpu or cuda.
        threads: torch threads; null: on a CPU one if level 0 has the encoder identity or mlp, else torch's choice.
        allow: packages trusted for `_target_`s besides hiwm's own.
        environment: `_target_` and arguments; see `hiwm.envs` for the contract.
        inputs: dataset columns that level 0 encodes.
        state: dataset columns of the true state, which the state probe reads out while training.
        levels: stride and parts of each level: level0, level1, ...
        diagnostics: added to the shipped ones: name -> `_target_` and arguments; see `hiwm.training.diagnostics`.
        tracking: mlflow, or none (needs no mlflow).
    """

    name: str
    run: str | None
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

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        return file_name("name", name)

    @field_validator("run")
    @classmethod
    def _check_run(cls, run: str | None) -> str | None:
        if run in RESERVED:
            raise ValueError(f"run is {run!r}, which hiwm uses in the experiment's folder; expected another name")
        return None if run is None else file_name("run", run)

    @field_validator("device")
    @classmethod
    def _known_device(cls, device: str) -> str:
        if device.split(":")[0] not in ("auto", "cpu", "cuda"):
            raise ValueError(f"device is {device!r}; expected auto, cpu, cuda or cuda:<n>")
        return device

    @field_validator("inputs", "state")
    @classmethod
    def _usable(cls, values: list[Any], info: Any) -> list[Any]:
        if not values:
            raise ValueError(f"{info.field_name} is empty; expected at least one entry")
        if info.field_name == "inputs" and "latent" in values:
            raise ValueError(
                "inputs has latent, which names the latents of the level below; expected a column of another name"
            )
        return values

    @model_validator(mode="after")
    def _planner_of_levels(self) -> Config:
        for k in self.planner.levels:
            if f"level{k}" not in self.levels:
                raise ValueError(absent_level(f"planner.level{k}", len(self.levels)))
        return self

    @property
    def folder(self) -> Path:
        """Where the results lie."""
        run = self.run or (f"seed{self.seed}" if self.seed else "")
        return Path(self.root) / self.name / run

    @property
    def levels_folder(self) -> Path:
        """Where all experiments keep their trained levels."""
        return Path(self.root) / LEVELS

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
    values = _composed(overrides)
    if (values.get("environment") or {}).get("_target_") == GYM:
        values = _composed([*_of_gym(values["environment"], overrides), *overrides])
    if mistake := without_effect(overrides, values):
        raise ConfigError(mistake)
    present = _present_levels(values["levels"], overrides)
    dropped = set(values["levels"]) - set(present)
    values["levels"] = present
    values["planner"] = _without_absent_levels(values, overrides, dropped)
    try:
        return Config(**drop_foreign_arguments(values, overrides, values.get("allow") or ()))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _composed(overrides: Sequence[str]) -> dict[str, Any]:
    """Plain containers, composed by Hydra."""
    try:
        with initialize_config_module("hiwm.configs", version_base="1.3"):
            composed = compose("config", list(overrides))
        return cast(dict[str, Any], OmegaConf.to_container(composed, resolve=True, throw_on_missing=True))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(unreadable(overrides) or _explained(error, list(overrides))) from error


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


def _present_levels(levels: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The levels without those that are null, and without those that an experiment drops and no override names."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    given = set(given_keys(overrides))
    named = given | {each.package for each in parsed if each.package and not each.is_delete()}
    asked = {name.split(".")[1] for name in named if name.startswith("levels.")}
    present = {key: level for key, level in levels.items() if level is not None}
    for key, level in list(present.items()):
        if not isinstance(level, Mapping) or ABSENT not in level or f"levels.{key}.{ABSENT}" in given:
            continue  # the mark is for experiments alone; `HierarchyConfig` refuses it elsewhere
        present[key] = {name: part for name, part in level.items() if name != ABSENT}
        if key not in asked:
            del present[key]
    return present


def _without_absent_levels(values: Mapping[str, Any], overrides: Sequence[str], dropped: set[str]) -> dict[str, Any]:
    """The section `planner` without entries of absent levels that nobody asked for.

    These are the entries of `config.yaml`, and those of levels that an experiment drops (`absent: true`) or the command line
    removes (`~levels.level2`). `Config` refuses other ones: those that an experiment has, or that the command line gives.
    """
    planner = dict(values["planner"])
    absent = [key for key in planner if re.fullmatch(r"level\d+", key) and key not in values["levels"]]
    if not absent:
        return planner
    shipped = _composed(["~experiment"])["planner"]
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    removed = {f"{each.package or each.key_or_group}" for each in parsed if each.is_delete()}
    given = {".".join(key.split(".")[:2]) for key in given_keys(overrides)}
    for key in absent:
        unasked = planner[key] == shipped.get(key) or f"levels.{key}" in removed or key in dropped
        if unasked and f"planner.{key}" not in given:
            del planner[key]
    return planner


def _choose(key: str, table: Mapping[str, Any]) -> Any:
    """`${choose:key,{a:1,else:2}}` in a config: the entry of a key that depends on another one."""
    return table[key] if key in table else table["else"]


def _explained(error: Exception, overrides: list[str]) -> str:
    """Hydra's message in one line; for an unknown key, the keys there are."""
    text = f"{error}\n{error.__cause__ or error}".split("Config search path")[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = list(dict.fromkeys(lines))
    message = " ".join(said[:16])
    if needless := _needless_plus(message, overrides):
        return needless
    if absent := re.search(r"Could not find '([^']+)/([^'/]+)' Available options in '[^']+': (.+)", " ".join(said)):
        group, name, options = absent[1], absent[2], absent[3].split()
        return f"{group}={name} is unknown; expected one of {', '.join(options)}{_nearest(name, options)}"
    unknown = re.match(r"Could not override '([\w.]+)'", message)
    if unknown is None:
        return message
    others = [override for override in overrides if unknown[1] not in override]
    try:
        with initialize_config_module("hiwm.configs", version_base="1.3"):
            there: Any = compose("config", others)
    except (HydraException, OmegaConfBaseException) as another:  # name that one, so that the rest can be composed
        return _explained(another, others) if len(others) < len(overrides) else message
    path, levels = unknown[1].split("."), there["levels"]
    for i, name in enumerate(path):
        whole, key = ".".join(path[:i]), ".".join(path[: i + 1])
        if not isinstance(there, Mapping | DictConfig):
            mapping = f"{path[i]}: ..." if i == len(path) - 1 else f"{path[i]}: {{...}}"
            do = (
                f"; expected a mapping. Write {whole}={{{mapping}}}"
                if is_open(Config, path[: i + 1])
                else " and has no keys"
            )
            return f"{whole} is {'null' if there is None else there}{do}"
        if name not in there:
            keys = sorted({*map(str, there)} - {ABSENT})
            known = f"one of {', '.join(keys)}" if keys else "no key"
            return f"unknown key {key}; expected {known}{_how_to_add(path[: i + 1], unknown[1], levels)}{_nearest(name, keys)}"
        there = there[name]
    return message


def _needless_plus(message: str, overrides: Sequence[str]) -> str | None:
    """What to write instead of `+` for something that is there; None if Hydra's message is about something else."""
    added = {each.lstrip("+").split("=")[0]: each for each in overrides if each.startswith("+")}
    there = re.match(r"Could not append to config\. An item is already at '([\w.]+)'", message)
    if there and there[1] in added:
        key = there[1]
        load_config([each.lstrip("+") if each == added[key] else each for each in overrides])  # may refuse the key
        return f"{key} is in the configuration already; expected {key}=... without +"
    twice = re.match(r"Multiple values for (\S+)\. |(\S+) appears more than once", message)
    if twice is None:
        return None
    name = twice[1] or twice[2]
    for key, override in added.items():  # Hydra may name a group within the one that is added
        _, at, package = key.partition("@")
        if name == key or (at and f"{name}.".partition("@")[2].startswith(f"{package}.")):
            return f"{key} is chosen already; expected {override.lstrip('+')} without +"
    return None


def _how_to_add(path: Sequence[str], whole: str, levels: Mapping[str, Any]) -> str:
    """How to add a key at a path, to give `whole`; empty where a config has no other keys than the shipped ones."""
    if path[0] == "levels" and len(path) < 4:  # a level, or one of its parts
        return f". Write +level@{whole}=abstract to add a level" if re.fullmatch(r"levels\.level\d+", whole) else ""
    missing = path[0] == "planner" and len(path) == 2 and path[1] in levels
    return f". Write +{whole}=... for a key that the config leaves out" if missing or is_open(Config, path) else ""


def _nearest(name: str, names: list[str]) -> str:
    found = get_close_matches(name, names, 1)
    return f". Did you mean {found[0]}?" if found else ""
