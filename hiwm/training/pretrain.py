"""Pretraining of level 0: the trunk of its encoder learns from images alone, then it is frozen.

The training of the level comes next, as in the second stage of V-JEPA 2-AC (arXiv 2506.09985): on the frozen trunk, the
level trains its other parts (the head of the encoder, the predictor, ...) with its own losses and actions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hiwm.build import build_as
from hiwm.data.clips import ClipSampler
from hiwm.data.store import Trajectories
from hiwm.hierarchy import LevelSpec
from hiwm.levels.encoders.vit import ViTEncoder
from hiwm.levels.level import Level
from hiwm.levels.masked import MaskedPrediction
from hiwm.tensors import load_state, save_tensors
from hiwm.training.checkpoint import CHECKPOINT
from hiwm.training.distributed import Processes, barrier
from hiwm.training.fingerprint import fingerprint
from hiwm.training.homes import held
from hiwm.training.loop import VALIDATION_WINDOWS, Progress, TrainingConfig, optimize

KEYS = {"objective", "training"}
WEIGHTS = "trunk.safetensors"


def check_pretraining(
    k: int, level: Level, config: Mapping[str, Any], allow: Sequence[str], training: TrainingConfig, data: Trajectories
) -> None:
    """Raise a ValueError if the pretraining config of level k is wrong or needs longer episodes than the data has."""
    where = f"levels.level{k}.pretraining"
    if k > 0:
        raise ValueError(f"{where} is given; expected null above level 0, because pretraining is from images")
    if not isinstance(config, Mapping) or set(config) != KEYS:
        raise ValueError(f"{where} is {config!r}; expected a mapping with exactly the keys {sorted(KEYS)}")
    for key in KEYS:
        if not isinstance(config[key], Mapping):
            raise ValueError(f"{where}.{key} is {config[key]!r}; expected a mapping")
    frames = make_objective(level, config, allow).frames
    try:
        training.of_level(config["training"])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    rows = (frames - 1) * level.stride + 1
    if rows > (longest := int(data.ep_len.max())):
        raise ValueError(
            f"{where}.objective.frames is {frames}, which needs episodes of {rows} rows; the longest has {longest}"
        )


def pretrain(
    level: Level,
    spec: LevelSpec,
    allow: Sequence[str],
    data: Trajectories,
    held_out: Trajectories,
    training: TrainingConfig,
    *,
    seed: int,
    processes: Processes,
    folder: Path,
    report: Callable[[Progress], None],
) -> None:
    """Give the encoder of a fitted level a trunk that learned from images alone, and freeze it.

    The trunk is saved under its own fingerprint in `folder`, so that levels with the same encoder share it. As in I-JEPA,
    the trunk is the one of the target encoder, a moving average of the trunk that gradient descent trains.

    Args:
        level: with an encoder that has a trunk (`check_pretraining`).
        spec: specification of the level.
        allow: packages trusted for the objective's class besides hiwm's own.
        data: episodes to learn from.
        held_out: episodes to validate on.
        training: settings of the level; those of the pretraining override them.
        seed: of initial weights and draws.
        processes: this process and the others.
        folder: of all levels.
        report: called at every step.
    """
    assert isinstance(level.encoder, ViTEncoder)
    config = spec.config["pretraining"]
    training = training.of_level(config["training"])
    made_from = [spec.config["encoder"], spec.config["min_std"], config["objective"], training.shaping]
    identity = [*made_from, spec.stride, list(spec.inputs), data.fingerprint, seed]
    home = folder / f"trunk-{fingerprint(identity)}"
    trunk = level.encoder.trunk
    with held([home], processes):
        there = (home / WEIGHTS).exists()
        barrier()  # no process writes before all have looked
        if there:
            load_state(trunk, home / WEIGHTS)
        else:
            torch.manual_seed(seed)  # the same weights whatever other parts the level has
            objective = make_objective(level, config, allow).to(processes.device)
            draws, held_draws = (_sampler(level, spec, objective, episodes) for episodes in (data, held_out))
            clip = held_draws.sample(max(1, VALIDATION_WINDOWS // objective.frames), np.random.default_rng(0))
            clip = clip.map(lambda x: x.to(processes.device))
            optimize(
                objective, draws, training, seed=seed, processes=processes, home=home,
                evaluate=lambda objective: objective.evaluate(clip),
                report=lambda progress: report(replace(progress, job="pretraining")),
            )  # fmt: skip
            trunk.load_state_dict(objective.target.copy.state_dict())
            if processes.is_main:
                save_tensors(home / WEIGHTS, trunk.state_dict())
                (home / CHECKPOINT).unlink(missing_ok=True)
    trunk.requires_grad_(False)
    if level.target is not None:
        level.target.restart(level.encoder)


def _sampler(level: Level, spec: LevelSpec, objective: MaskedPrediction, episodes: Trajectories) -> ClipSampler:
    """A sampler of windows with as many frames as the objective takes."""
    return ClipSampler(
        episodes,
        inputs=tuple(spec.inputs),
        action="action",
        horizon=objective.frames - 1,
        stride=level.stride,
        action_period=1,
        reach=None,
    )


def make_objective(level: Level, config: Mapping[str, Any], allow: Sequence[str]) -> MaskedPrediction:
    """The objective of the pretraining; it shares the trunk and the standardisation with the level."""
    key, parts = "levels.level0.pretraining.objective", {"encoder": level.encoder, "standardize": level.standardize}
    return build_as(MaskedPrediction, key, config["objective"], allow, **parts)
