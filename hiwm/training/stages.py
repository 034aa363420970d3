"""Bottom-up training: each level on the cached latents of the level below."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hiwm.data.actions import action_statistics
from hiwm.data.clips import ClipSampler
from hiwm.data.store import Trajectories, open_dataset
from hiwm.data.views import JoinedColumn
from hiwm.files import write_yaml
from hiwm.hierarchy import Hierarchy, LevelSpec
from hiwm.levels.action_encoders.raw import RawActionEncoder
from hiwm.levels.joint import JointLevels
from hiwm.levels.level import Level
from hiwm.tensors import checksum_of, load_state
from hiwm.training.checkpoint import (
    DESCRIPTION,
    LATENTS,
    WEIGHTS,
    forget_trained,
    is_trained,
    load_trained,
    save_metrics,
    save_trained,
)
from hiwm.training.diagnostics.episodes import Episodes
from hiwm.training.diagnostics.runner import SHIPPED, Diagnostics
from hiwm.training.distributed import Processes, barrier, from_main
from hiwm.training.divergence import naming
from hiwm.training.dynamics import learn_dynamics
from hiwm.training.homes import held
from hiwm.training.joint import train_jointly
from hiwm.training.latents import cache_latents, is_cache_of
from hiwm.training.loop import MEASURING, Progress, TrainingConfig, held_out_clip, train_level
from hiwm.training.pretrain import pretrain
from hiwm.training.specs import HierarchyConfig, check_batches, describe
from hiwm.training.timescale import out_of_scale, timescale
from hiwm.training.windows import WindowCoverage, check_split, check_windows

log = logging.getLogger("hiwm")

FIT_WINDOWS = 1024
MOST_STATE = 256  # numbers of the true state that diagnostics read; images have many more
MONITORED_EPISODES, MONITORED_STEPS = 64, 32


@dataclass(frozen=True)
class TrainedLevel:
    """The result of one level.

    Args:
        folder: where its weights, metrics and latents lie.
        reused: whether it was there already.
        metrics: its last validation.
    """

    folder: Path
    reused: bool
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Report:
    """Callbacks of a training; each does nothing by default.

    Args:
        start: called before a level, with what the level can use of the data and with the time scale of what the level
            learns from. Level 0 takes the time scale of the true state, because that of a pixel is only the time
            that something takes to cross it. The other levels take that of the latents below.
        fit: called with the level's number, and with the windows that its regularizers look at before it is trained, if they do.
        step: called with the level's number at every step.
        level: called with the level's number when the level is done.
    """

    start: Callable[[WindowCoverage, float], None] = lambda coverage, timescale: None
    fit: Callable[[int, int], None] = lambda level, windows: None
    step: Callable[[int, Progress], None] = lambda level, progress: None
    level: Callable[[int, TrainedLevel], None] = lambda level, trained: None


@dataclass(frozen=True)
class _Source:
    """The data that one level learns from: columns to encode, and environment steps of one action."""

    data: Trajectories
    inputs: Sequence[str]
    action_period: int

    def sampler(self, level: Level, data: Trajectories, horizon: int) -> ClipSampler:
        return ClipSampler(
            data,
            inputs=self.inputs,
            action="action",
            horizon=horizon,
            stride=level.stride,
            action_period=self.action_period,
            reach=None if level.inverse is None else level.inverse.reach,
        )


@dataclass(frozen=True)
class _Run:
    """What the stages of one training share. `state` is the true state at every row."""

    config: HierarchyConfig
    training: TrainingConfig
    seed: int
    folder: Path
    processes: Processes
    report: Report
    state: JoinedColumn
    diagnostics: Diagnostics


def train_hierarchy(
    config: HierarchyConfig,
    training: TrainingConfig,
    trajectories: Trajectories,
    *,
    seed: int,
    folder: Path,
    processes: Processes,
    report: Report,
    diagnostics: Diagnostics = SHIPPED,
) -> tuple[Hierarchy, list[Path]]:
    """Train every level that is not there yet.

    A level is saved under its fingerprint in `folder`, which experiments share. It is reused if it was trained from the
    same config, level below, data and seed. If another command trains it at present, this one waits.

    Args:
        config: the levels.
        training: how each level is trained.
        trajectories: the dataset.
        seed: seed of the initial weights and the draws.
        folder: folder of all levels, with one subfolder for each fingerprint.
        processes: this process and the others.
        report: what is called before, during and after the training of a level.
        diagnostics: measured at every validation. A level that is reused is measured again if it lacks one of them.

    Returns:
        The hierarchy, and the file of cached latents of each level.

    Raises:
        ValueError: a level's window does not fit the episodes, or a part's config is wrong; before any training.
    """
    specs = describe(config, training, trajectories, seed)
    check_split(config, trajectories)
    coverage = check_windows(config, trajectories)
    check_batches(specs, training, processes)
    run = _Run(config, training, seed, folder, processes, report, _true_state(config, trajectories), diagnostics)
    return _train_levels(run, trajectories, specs, coverage)


def _train_levels(
    run: _Run, trajectories: Trajectories, specs: Sequence[LevelSpec], coverage: Sequence[WindowCoverage]
) -> tuple[Hierarchy, list[Path]]:
    homes, joint = [run.folder / spec.fingerprint for spec in specs], run.training.joint
    levels = _build_levels(run, specs)
    source, caches = _Source(trajectories, tuple(run.config.inputs), 1), []
    with held(homes if joint else [], run.processes):
        new = joint and not from_main(run.processes.is_main and all(is_trained(home) for home in homes))
        if new:
            with naming("the levels, trained jointly"):
                _train_jointly(run, levels, homes, source)
        for k, (spec, level, home) in enumerate(zip(specs, levels, homes, strict=True)):
            with naming(f"level {k}"), held([] if joint else [home], run.processes):
                there = load_trained(level, home)
                barrier()  # no process writes before all have read
                if run.processes.is_main and not (home / DESCRIPTION).exists():
                    below = specs[k - 1].fingerprint if k else trajectories.fingerprint
                    write_yaml(home / DESCRIPTION, {"level": k, "below": below, "seed": run.seed, **asdict(spec)})
                metrics = _finish_level(run, spec, level, home, source, there, coverage[k])
                caches.append(_cache(run, level, home, source))
            run.report.level(k, TrainedLevel(home, there is not None and not new, metrics))
            source = _Source(open_dataset(caches[k]), ("latent",), source.action_period * spec.stride)
    return Hierarchy(levels, specs), caches


def _true_state(config: HierarchyConfig, trajectories: Trajectories) -> JoinedColumn:
    """Columns of the true state, one row for each step, read when the diagnostics ask for rows."""
    return JoinedColumn([trajectories.column(name) for name in config.state], MOST_STATE, spread=True)


def _build_levels(run: _Run, specs: Sequence[LevelSpec]) -> list[Level]:
    """Untrained levels, with the same initial weights in every process."""
    levels = []
    for spec in specs:
        torch.manual_seed(run.seed)
        levels.append(spec.build(run.config.allow).to(run.processes.device))
    return levels


def _train_jointly(run: _Run, levels: Sequence[Level], homes: Sequence[Path], source: _Source) -> None:
    """Train all levels at once, anew if only some of them are there."""
    if run.processes.is_main:
        for home in homes:
            forget_trained(home)
    barrier()
    horizon = JointLevels(levels).horizon
    train_data, held_data = source.data.split(run.config.validation)
    sampler, held_sampler = (source.sampler(levels[0], data, horizon) for data in (train_data, held_data))
    fit_level(levels[0], source.data, sampler)
    train_jointly(
        levels, sampler, held_sampler, spread_episodes(held_data, source.inputs, run.state, run.processes.device, 0), run.training,
        seed=run.seed, processes=run.processes, homes=homes, report=run.report.step, diagnostics=run.diagnostics,
    )  # fmt: skip


def _finish_level(
    run: _Run,
    spec: LevelSpec,
    level: Level,
    home: Path,
    source: _Source,
    metrics: Mapping[str, float] | None,
    coverage: WindowCoverage,
) -> Mapping[str, float]:
    """Train the level unless it has metrics already, then freeze it; returns its metrics and its time scale."""
    k, known = coverage.level, metrics or {}
    columns = run.config.state if k == 0 else source.inputs
    scale = known["timescale"] if "timescale" in known else timescale(source.data, columns)
    run.report.start(coverage, scale)
    if run.processes.is_main and (wrong := out_of_scale(coverage.period, coverage.rows - 1, scale)):
        log.warning("level %d: %s", k, wrong)
    if metrics is None:
        metrics = {**_train_level(run, k, spec, level, home, source), "timescale": scale}
        if run.processes.is_main:
            save_trained(level, metrics, home)
    elif "timescale" not in metrics:  # trained jointly, before the latents that the level learns from were cached
        metrics = {**metrics, "timescale": scale}
        if run.processes.is_main:
            save_metrics(metrics, home)
    if run.diagnostics.missing(metrics):  # the level was trained before they were added
        metrics = _measure(run, k, spec, level, source, home) | dict(metrics)
        if run.processes.is_main:
            save_metrics(metrics, home)
    level.eval().requires_grad_(False)
    return metrics


def _measure(run: _Run, k: int, spec: LevelSpec, level: Level, source: _Source, home: Path) -> dict[str, float]:
    """Diagnostics of a level that was trained before."""
    held_data = source.data.split(run.config.validation)[1]
    clip = held_out_clip(source.sampler(level, held_data, level.horizon), run.processes)
    episodes = spread_episodes(held_data, source.inputs, run.state, run.processes.device, k)
    level.eval()
    with torch.no_grad():
        metrics = run.diagnostics.measure(level, level.output(clip), episodes.encoded(level))
    steps = run.training.of_level(spec.config["training"]).steps
    values = {f"validation/{name}": metrics[name] for name in run.diagnostics.by_name}
    run.report.step(k, Progress(steps, steps, values, home, MEASURING))
    return metrics


def _train_level(run: _Run, k: int, spec: LevelSpec, level: Level, home: Path, source: _Source) -> Mapping[str, float]:
    """Pretraining, if the level has one, its dynamics, if regularizers imagine, then training; returns the last validation."""
    train_data, held_data = source.data.split(run.config.validation)
    sampler, held_sampler = (source.sampler(level, data, level.horizon) for data in (train_data, held_data))
    if level.fit_windows:
        run.report.fit(k, level.fit_windows)
    fit_level(level, source.data, sampler)
    own = run.training.of_level(spec.config["training"])
    report = partial(run.report.step, k)
    if spec.config["pretraining"] is not None:
        pretrain(
            level, spec, run.config.allow, train_data, held_data, own,
            seed=run.seed, processes=run.processes, folder=run.folder, report=report,
        )  # fmt: skip
        fit_level(level, source.data, sampler)  # to the latents of the pretrained encoder
    if level.imagines:
        learn_dynamics(
            level, sampler, held_sampler, own, seed=run.seed, processes=run.processes, home=home, report=report
        )
    episodes = spread_episodes(held_data, source.inputs, run.state, run.processes.device, k)
    return train_level(
        level, sampler, held_sampler, episodes, own,
        seed=run.seed, processes=run.processes, home=home, report=report, diagnostics=run.diagnostics,
    )  # fmt: skip


def _cache(run: _Run, level: Level, home: Path, source: _Source) -> Path:
    """The file of the level's latents, made if it is not there, damaged, or of other weights."""
    path = home / LATENTS
    made_by = checksum_of(home / WEIGHTS) if run.processes.is_main else ""
    if from_main(run.processes.is_main and not is_cache_of(path, made_by)):
        if not run.processes.is_main:
            load_state(level, home / WEIGHTS)  # all processes encode with the weights that the main one has saved
        cache_latents(level, source.data, path, source.inputs, "action", source.action_period, made_by, run.processes)
    barrier()
    return path


def fit_level(level: Level, source: Trajectories, sampler: ClipSampler) -> None:
    """Set the input statistics and `Predictor.scale`, before training."""
    windows = max(1, FIT_WINDOWS * level.horizon // sampler.horizon)  # the windows of a joint training are longer
    statistics = {name: source.statistics(name) for name in sampler.inputs}
    device = next(level.buffers()).device
    level.fit(
        sampler.sample(windows, np.random.default_rng(0)).map(lambda x: x.to(device)),
        {name: torch.from_numpy(np.asarray(mean)).to(device) for name, (mean, _) in statistics.items()},
        {name: torch.from_numpy(np.asarray(std)).to(device) for name, (_, std) in statistics.items()},
    )
    if level.fit_windows:
        many = sampler.sample(level.fit_windows, np.random.default_rng(1)).inputs
        level.fit_regularizers({name: value.to(device) for name, value in many.items()})
    if isinstance(level.action_encoder, RawActionEncoder) and not level.reads_latent:
        level.action_encoder.fit(*(torch.from_numpy(value).to(device) for value in action_statistics(source)))


def spread_episodes(
    held_out: Trajectories, inputs: Sequence[str], state: Any, device: torch.device, k: int
) -> Episodes:
    """Evenly spaced time steps of held-out episodes, for the diagnostics of level k; `state` (N, C) is an array or a column."""
    chosen = np.linspace(0, len(held_out.ep_len) - 1, min(MONITORED_EPISODES, len(held_out.ep_len))).astype(int)
    share = np.linspace(0, 1, MONITORED_STEPS)
    rows = held_out.ep_offset[chosen, None] + np.round(share * (held_out.ep_len[chosen, None] - 1)).astype(np.int64)
    return Episodes(
        {name: torch.from_numpy(held_out.column(name)[rows]).to(device) for name in inputs},
        torch.from_numpy(state[rows]).to(device),
        k,
    )
