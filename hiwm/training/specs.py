"""What to train: the levels of a configuration, checked and described before any training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hiwm.data.store import Trajectories
from hiwm.hierarchy import LevelSpec
from hiwm.levels.action_encoders.raw import RawActionEncoder
from hiwm.levels.level import Level
from hiwm.training.distributed import Processes
from hiwm.training.fingerprint import fingerprint
from hiwm.training.loop import TrainingConfig
from hiwm.training.pretrain import check_pretraining

ACTIONS = "standardized"  # part of the fingerprint, because levels of earlier versions saw the units of the environment
LEVEL_KEYS = {
    "stride", "horizon", "min_std", "encoder", "action_encoder", "predictor", "inverse", "target", "regularizers",
    "loss_weights", "pretraining", "training",
}  # fmt: skip


@dataclass(frozen=True)
class HierarchyConfig:
    """The levels to train.

    Args:
        levels: parts of each level, bottom first, as in `configs/level/`.
        inputs: columns that level 0 encodes.
        state: columns of the true state, which only the state probe uses.
        validation: share of the episodes held out.
        allow: packages trusted for the parts' classes besides hiwm's own.

    Raises:
        ValueError: a level lacks a key or has an unknown one, or its stride or horizon is not a positive whole number.
    """

    levels: Sequence[Mapping[str, Any]]
    inputs: Sequence[str]
    state: Sequence[str]
    validation: float
    allow: Sequence[str]

    def __post_init__(self) -> None:
        for k, parts in enumerate(self.levels):
            expected = ", ".join(sorted(LEVEL_KEYS))
            if not isinstance(parts, Mapping):
                raise ValueError(
                    f"levels.level{k} is {parts!r}; expected a mapping. Write level@levels.level{k}=abstract, with + for a new level"
                )
            if missing := LEVEL_KEYS - set(parts):
                raise ValueError(f"levels.level{k}.{min(missing)} is missing; expected the keys {expected}")
            if unknown := set(parts) - LEVEL_KEYS:
                raise ValueError(f"unknown key levels.level{k}.{min(unknown)}; expected one of {expected}")
            for key in ("stride", "horizon"):
                value = parts[key]
                if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                    raise ValueError(f"levels.level{k}.{key} is {value!r}; expected a whole number of at least 1")

    @property
    def strides(self) -> tuple[int, ...]:
        """Steps of the level below in one step of each level."""
        return tuple(parts["stride"] for parts in self.levels)


def describe(
    config: HierarchyConfig, training: TrainingConfig, trajectories: Trajectories, seed: int
) -> tuple[LevelSpec, ...]:
    """Specifications of all levels, bottom first.

    Builds every level once, so that a mistake in a part's config is found before any training.
    """
    shapes = {name: trajectories.column(name).shape[1:] for name in (*config.inputs, "action")}
    specs = []
    for k, (spec, level) in enumerate(_built(config, training, shapes, trajectories.fingerprint, seed)):
        if (pretraining := spec.config["pretraining"]) is not None:
            own = training_of(k, training, spec.config)
            check_pretraining(k, level, pretraining, config.allow, own, trajectories)
        specs.append(spec)
    return tuple(specs)


def check_parts(config: HierarchyConfig, training: TrainingConfig, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse parts that cannot be built for columns of these shapes, before there are data."""
    for _ in _built(config, training, shapes, dataset="", seed=0):
        pass


def _built(
    config: HierarchyConfig, training: TrainingConfig, shapes: Mapping[str, tuple[int, ...]], dataset: str, seed: int
) -> Iterator[tuple[LevelSpec, Level]]:
    """The levels, untrained, bottom first, for a dataset with this fingerprint and with columns of these shapes."""
    inputs, dim_below = {name: shapes[name] for name in config.inputs}, int(np.prod(shapes["action"]))
    found = level_fingerprints(config, training, dataset, seed)
    for k, given in enumerate(config.levels):
        parts = {key: value for key, value in given.items() if key != "stride"}
        spec = LevelSpec(parts, given["stride"], inputs, dim_below, found[k])
        level = spec.build(config.allow, f"levels.level{k}")
        _check_level(k, level, parts, joint=training.joint)
        yield spec, level
        inputs, dim_below = {"latent": (level.encoder.dim,)}, level.action_encoder.dim


def level_fingerprints(config: HierarchyConfig, training: TrainingConfig, dataset: str, seed: int) -> list[str]:
    """Fingerprints of all levels, bottom first, from the config and the fingerprint of the dataset."""
    below = dataset
    if training.joint:  # every level depends on all others
        below = fingerprint([below, [dict(parts) for parts in config.levels]])
    found: list[str] = []
    for k, given in enumerate(config.levels):
        parts = {key: value for key, value in given.items() if key != "stride"}
        own = training_of(k, training, parts)
        identity = [ACTIONS, parts, given["stride"], own.shaping, below, list(config.inputs), config.validation, seed]
        below = fingerprint(identity)
        found.append(below)
    return found


def training_of(k: int, training: TrainingConfig, parts: Mapping[str, Any]) -> TrainingConfig:
    """How level k is trained: `training` with the level's own keys on top."""
    try:
        return training.of_level(parts["training"])
    except ValueError as error:
        raise ValueError(f"levels.level{k}: {error}") from error


def _check_level(k: int, level: Level, parts: Mapping[str, Any], *, joint: bool) -> None:
    if joint and (parts["pretraining"] is not None or parts["training"]):
        raise ValueError(
            f"levels.level{k} has a pretraining or a training of its own; expected neither with training.joint, because all "
            "levels train at once"
        )
    if joint and level.fit_windows:
        asking = [name for name, regularizer in level.regularizers.items() if regularizer.fit_windows]
        raise ValueError(
            f"levels.level{k} has the regularizer {asking[0]}; expected another one with training.joint, e.g. by "
            f"level@levels.level{k}=abstract, because it looks at the trained level below before its own training begins"
        )
    if k == 0 and not isinstance(level.action_encoder, RawActionEncoder):
        raise ValueError(
            f"levels.level0.action_encoder is {type(level.action_encoder).__name__}; expected RawActionEncoder, because the "
            "environment executes the actions of level 0"
        )


def check_batches(specs: Sequence[LevelSpec], training: TrainingConfig, processes: Processes) -> None:
    """Refuse a batch, of a level or of its pretraining, that the processes cannot share evenly."""
    for k, spec in enumerate(specs):
        where, own = f"levels.level{k}", training.of_level(spec.config["training"])
        try:
            own.check(processes)
            if spec.config["pretraining"] is not None:
                where += ".pretraining"
                own.of_level(spec.config["pretraining"]["training"]).check(processes)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
