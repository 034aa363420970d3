"""Bottom-up training: each level on the cached latents of the level below."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hiwm.data.clips import ClipSampler
from hiwm.data.store import Trajectories, open_dataset
from hiwm.hierarchy import Hierarchy, LevelSpec
from hiwm.levels.action_encoders.raw import RawActionEncoder
from hiwm.levels.joint import JointStack
from hiwm.levels.level import Level
from hiwm.training.checkpoint import LATENTS, forget_trained, is_trained, load_trained, save_metrics, save_trained
from hiwm.training.diagnostics.episodes import Episodes
from hiwm.training.diagnostics.runner import SHIPPED, Diagnostics
from hiwm.training.distributed import Processes, barrier
from hiwm.training.fingerprint import fingerprint
from hiwm.training.joint import train_jointly
from hiwm.training.latents import cache_latents
from hiwm.training.loop import MEASURING, Progress, TrainingConfig, evaluate_level, held_out_clip, train_level
from hiwm.training.pretrain import check_pretraining, pretrain
from hiwm.training.timescale import out_of_scale, timescale

log = logging.getLogger("hiwm")

LEVEL_KEYS = {
    "horizon",
    "floor",
    "encoder",
    "action_encoder",
    "predictor",
    "inverse",
    "target",
    "regularizers",
    "coefs",
    "pretraining",
    "training",
}
FIT_WINDOWS = 1024
MONITORED_EPISODES, MONITORED_MOMENTS = 64, 32
LEAST_STARTS = 0.25  # of the rows; below it a level sees little but the beginnings of episodes


@dataclass(frozen=True)
class StackConfig:
    """The stack to train.

    Args:
        levels: parts of each level, bottom first, as in `configs/level/`.
        strides: steps of the level below in one step of each level.
        inputs: columns the lowest level encodes.
        state: columns of the true state, for the frozen readout only.
        validation: share of the episodes held out.
        allow: packages trusted for the parts' classes besides hiwm's own.
    """

    levels: Sequence[Mapping[str, Any]]
    strides: Sequence[int]
    inputs: Sequence[str]
    state: Sequence[str]
    validation: float = 0.1
    allow: Sequence[str] = ()

    def __post_init__(self) -> None:
        if len(self.strides) != len(self.levels):
            raise ValueError(
                f"strides is {list(self.strides)} for {len(self.levels)} levels; allowed: one number a level, bottom first"
            )
        if any(stride < 1 for stride in self.strides):
            raise ValueError(f"strides is {list(self.strides)}; allowed: whole numbers of at least 1")


@dataclass(frozen=True)
class Depth:
    """What a level can use of the data.

    Args:
        level: its number.
        period: environment steps in one of its steps.
        rows: of a training window.
        episodes: share of the episodes that hold a window.
        starts: share of the data's rows at which a window begins.
    """

    level: int
    period: int
    rows: int
    episodes: float
    starts: float


@dataclass(frozen=True)
class TrainedLevel:
    """One level's result.

    Args:
        folder: where its weights, metrics and latents lie.
        reused: it was there already.
        metrics: its last validation.
    """

    folder: Path
    reused: bool
    metrics: Mapping[str, float]


def train_stack(
    config: StackConfig,
    training: TrainingConfig,
    trajectories: Trajectories,
    *,
    seed: int,
    folder: Path,
    processes: Processes,
    on_start: Callable[[Depth, float], None],
    report: Callable[[int, Progress], None],
    on_level: Callable[[int, TrainedLevel], None],
    diagnostics: Diagnostics = SHIPPED,
) -> tuple[Hierarchy, list[Path]]:
    """Train every level that is not there yet.

    A level lies under its fingerprint in `folder`; one that was trained from the same config, level below, data and
    seed is reused.

    Args:
        config: the stack.
        training: how each level is trained.
        trajectories: the dataset.
        seed: of initial weights and draws.
        folder: of all levels, one subfolder a fingerprint.
        processes: this process and the others.
        on_start: called before a level, with what it can use of the data and the time-scale of what it learns from: the
            true state for level 0 (a pixel's own is the time something takes to cross it), the latents below for others.
        report: called with the level's number at every step.
        on_level: called when a level is done.
        diagnostics: measured at every validation. A level that is reused is measured again if it lacks one of them.

    Returns:
        The hierarchy, and the file of cached latents of each level.

    Raises:
        ValueError: a level's window does not fit the episodes, or a part's config is wrong; before any training.
    """
    specs = describe(config, training, trajectories, seed)
    depths = check_windows(config, trajectories)
    _check_batches(specs, training, processes)
    _, held_out = trajectories.split(config.validation)
    state = np.concatenate(
        [held_out.column(name).reshape(len(held_out.column(name)), -1) for name in config.state], 1
    ).astype(np.float32)  # fmt: skip
    homes = [folder / spec.fingerprint for spec in specs]
    joint = training.joint and not all(is_trained(home) for home in homes)
    levels: list[Level] = []
    for spec, home in zip(specs, homes, strict=True):
        torch.manual_seed(seed)  # initial weights, the same in every process
        levels.append(spec.build(config.allow).to(processes.device))
        if joint:  # what is there of an earlier, incomplete training is of no use
            barrier()
            if processes.is_main:
                forget_trained(home)
    barrier()
    there = [load_trained(level, home) for level, home in zip(levels, homes, strict=True)]
    if joint:
        _train_jointly(
            levels,
            config,
            training,
            trajectories,
            seed=seed,
            homes=homes,
            processes=processes,
            report=report,
            state=state,
            diagnostics=diagnostics,
        )
    caches: list[Path] = []
    source, inputs, action_period = trajectories, tuple(config.inputs), 1
    for k, (spec, level, home) in enumerate(zip(specs, levels, homes, strict=True)):
        metrics = load_trained(level, home) if joint else there[k]
        known = {} if metrics is None else metrics
        scale = known["timescale"] if "timescale" in known else timescale(source, config.state if k == 0 else inputs)
        on_start(depths[k], scale)
        if processes.is_main and (wrong := out_of_scale(depths[k].period, depths[k].rows - 1, scale)):
            log.warning("level %d: %s", k, wrong)
        if metrics is None:
            home.mkdir(parents=True, exist_ok=True)
            train_data, held_data = source.split(config.validation)
            sampler, held_sampler = (
                _sampler(level, data, inputs, action_period, level.horizon) for data in (train_data, held_data)
            )
            fit_level(level, source, sampler)
            own = training.changed(spec.config["training"])
            if spec.config["pretraining"] is not None:
                pretrain(
                    level,
                    spec,
                    config.allow,
                    train_data,
                    held_data,
                    own,
                    seed=seed,
                    processes=processes,
                    folder=folder,
                    report=partial(report, k),
                )
                fit_level(level, source, sampler)  # to the latents there are now
            metrics = train_level(
                level,
                sampler,
                held_sampler,
                spread_episodes(held_data, inputs, state),
                own,
                seed=seed,
                processes=processes,
                home=home,
                report=partial(report, k),
                diagnostics=diagnostics,
            )
            metrics = {**metrics, "timescale": scale}
            if processes.is_main:
                save_trained(level, metrics, home)
        elif "timescale" not in metrics:  # trained jointly, before what it learns from was there
            metrics = {**metrics, "timescale": scale}
            if processes.is_main:
                save_metrics(metrics, home)
        if diagnostics.missing(metrics):  # the level was trained before they were added
            held_data = source.split(config.validation)[1]
            clip = held_out_clip(_sampler(level, held_data, inputs, action_period, level.horizon), processes)
            metrics = evaluate_level(level, clip, spread_episodes(held_data, inputs, state), diagnostics) | metrics
            steps = training.changed(spec.config["training"]).steps
            values = {f"validation/{name}": metrics[name] for name in diagnostics.by_name}
            report(k, Progress(steps, steps, values, home, MEASURING))
            if processes.is_main:
                save_metrics(metrics, home)
        level.eval().requires_grad_(False)
        cache = home / LATENTS
        if processes.is_main and not cache.exists():
            cache_latents(level, source, cache, inputs, "action", action_period)
        barrier()
        on_level(k, TrainedLevel(home, there[k] is not None, metrics))
        caches.append(cache)
        source, inputs = open_dataset(cache), ("latent",)
        action_period *= spec.stride
    return Hierarchy(levels, specs), caches


def _train_jointly(
    levels: Sequence[Level],
    config: StackConfig,
    training: TrainingConfig,
    trajectories: Trajectories,
    *,
    state: np.ndarray,
    seed: int,
    processes: Processes,
    homes: Sequence[Path],
    report: Callable[[int, Progress], None],
    diagnostics: Diagnostics,
) -> None:
    horizon = JointStack(levels).horizon
    train_data, held_data = trajectories.split(config.validation)
    sampler, held_sampler = (_sampler(levels[0], data, config.inputs, 1, horizon) for data in (train_data, held_data))
    fit_level(levels[0], trajectories, sampler)
    for home in homes:
        home.mkdir(parents=True, exist_ok=True)
    train_jointly(
        levels, sampler, held_sampler, spread_episodes(held_data, config.inputs, state), training,
        seed=seed, processes=processes, homes=homes, report=report, diagnostics=diagnostics,
    )  # fmt: skip


def _sampler(level: Level, data: Trajectories, inputs: Sequence[str], action_period: int, horizon: int) -> ClipSampler:
    return ClipSampler(
        data,
        inputs=inputs,
        action="action",
        horizon=horizon,
        stride=level.stride,
        action_period=action_period,
        reach=None if level.inverse is None else level.inverse.reach,
    )


def describe(
    config: StackConfig, training: TrainingConfig, trajectories: Trajectories, seed: int
) -> tuple[LevelSpec, ...]:
    """Specs of all levels; building each once checks every part's config before anything is trained."""
    inputs = {name: trajectories.column(name).shape[1:] for name in config.inputs}
    dim_below = int(np.prod(trajectories.column("action").shape[1:]))
    below = trajectories.fingerprint
    if training.joint:  # every level depends on all others
        below = fingerprint([below, [dict(parts) for parts in config.levels], list(config.strides)])
    specs = []
    for k, (parts, stride) in enumerate(zip(config.levels, config.strides, strict=True)):
        if missing := LEVEL_KEYS - set(parts):
            raise ValueError(f"levels.level{k} has no {sorted(missing)[0]}; needed: {', '.join(sorted(LEVEL_KEYS))}")
        try:
            own = training.changed(parts["training"])
        except ValueError as error:
            raise ValueError(f"levels.level{k}: {error}") from error
        identity = [parts, stride, own.shaping, below, list(config.inputs), config.validation, seed]
        below = fingerprint(identity)
        if not isinstance(parts["horizon"], int) or parts["horizon"] < 1:
            raise ValueError(f"levels.level{k}.horizon is {parts['horizon']!r}; allowed: a whole number of at least 1")
        spec = LevelSpec(parts, stride, inputs, dim_below, below)
        try:
            level = spec.build(config.allow)
        except ValueError as error:
            raise ValueError(f"levels.level{k}: {error}") from error
        if training.joint and (parts["pretraining"] is not None or parts["training"]):
            raise ValueError(
                f"levels.level{k} has a pretraining or a training of its own; allowed with training.joint: neither, for all "
                "levels train at once"
            )
        if parts["pretraining"] is not None:
            check_pretraining(k, level, parts["pretraining"], config.allow, own, trajectories)
        if k == 0 and not isinstance(level.action_encoder, RawActionEncoder):
            raise ValueError(
                f"levels.level0.action_encoder is {type(level.action_encoder).__name__}; allowed: RawActionEncoder, for what "
                "level 0 chooses is executed"
            )
        specs.append(spec)
        inputs, dim_below = {"latent": (level.encoder.dim,)}, level.action_encoder.dim
    return tuple(specs)


def _check_batches(specs: Sequence[LevelSpec], training: TrainingConfig, processes: Processes) -> None:
    for k, spec in enumerate(specs):
        where, own = f"levels.level{k}", training.changed(spec.config["training"])
        try:
            own.check(processes)
            if spec.config["pretraining"] is not None:
                where += ".pretraining"
                own.changed(spec.config["pretraining"]["training"]).check(processes)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error


def windows_of(config: StackConfig) -> list[tuple[int, int, int]]:
    """Of every level its number, environment steps in one of its steps, and rows in a window."""
    periods = np.cumprod(config.strides).tolist()
    return [
        (k, period, parts["horizon"] * period + 1)
        for k, (parts, period) in enumerate(zip(config.levels, periods, strict=True))
    ]


def check_longest(config: StackConfig, longest: int, where: object) -> None:
    """Refuse episodes that are all shorter than a level's window, naming the level."""
    for k, period, rows in windows_of(config):
        if longest < rows:
            raise ValueError(
                f"levels.level{k}: a window of {(rows - 1) // period} steps of {period} environment steps needs episodes of {rows} "
                f"rows; the longest of {where} has {longest}. Lower strides or levels.level{k}.horizon, or collect longer episodes "
                "(dataset.steps)"
            )


def check_windows(config: StackConfig, trajectories: Trajectories) -> list[Depth]:
    """How much of the data each level can use; refuses a level whose window is longer than every episode, naming it."""
    check_longest(config, int(trajectories.ep_len.max()), trajectories.path)
    depths = []
    for k, period, rows in windows_of(config):
        usable = float((trajectories.ep_len >= rows).mean())
        starts = float(np.maximum(trajectories.ep_len - rows + 1, 0).sum() / trajectories.num_steps)
        depths.append(Depth(k, period, rows, usable, starts))
        if starts < LEAST_STARTS:
            log.warning(
                "level %d: its window of %d rows begins at only %.0f %% of the data's rows; lower strides or "
                "levels.level%d.horizon", k, rows, 100 * starts, k,
            )  # fmt: skip
    return depths


def fit_level(level: Level, source: Trajectories, sampler: ClipSampler) -> None:
    """Input statistics and the size of a step, before training."""
    windows = max(1, FIT_WINDOWS * level.horizon // sampler.horizon)  # a joint training's are longer
    statistics = {name: source.statistics(name) for name in sampler.inputs}
    device = next(level.buffers()).device
    level.fit(
        sampler.sample(windows, np.random.default_rng(0)).map(lambda x: x.to(device)),
        {name: torch.from_numpy(np.asarray(mean)).to(device) for name, (mean, _) in statistics.items()},
        {name: torch.from_numpy(np.asarray(std)).to(device) for name, (_, std) in statistics.items()},
    )


def spread_episodes(held_out: Trajectories, inputs: Sequence[str], state: np.ndarray) -> Episodes:
    """Evenly spaced moments of held-out episodes, for the diagnostics."""
    chosen = np.linspace(0, len(held_out.ep_len) - 1, min(MONITORED_EPISODES, len(held_out.ep_len))).astype(int)
    share = np.linspace(0, 1, MONITORED_MOMENTS)
    rows = held_out.ep_offset[chosen, None] + np.round(share * (held_out.ep_len[chosen, None] - 1)).astype(np.int64)
    return Episodes(
        {name: torch.from_numpy(held_out.column(name)[rows]) for name in inputs}, torch.from_numpy(state[rows])
    )
