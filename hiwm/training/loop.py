"""The training loop, plain: evaluate, save, step, log; of one level, or of what is trained before it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hiwm.checks import at_least, matches, spell
from hiwm.data.clips import ClipSampler
from hiwm.levels.clip import Clip, Pairs
from hiwm.levels.distributed import average_over_processes
from hiwm.levels.features import Features
from hiwm.levels.level import Level
from hiwm.levels.trainable import Trainable
from hiwm.training.checkpoint import CHECKPOINT, load_checkpoint, save_checkpoint
from hiwm.training.diagnostics.episodes import EncodedEpisodes, Episodes
from hiwm.training.diagnostics.runner import LOSS, SHIPPED, Diagnostics
from hiwm.training.distributed import Processes

VALIDATION_WINDOWS = 1024
MEASURING = "diagnostics"  # the job of measuring a level that was trained before


@dataclass(frozen=True)
class TrainingConfig:
    """How a level is trained.

    Args:
        steps: optimiser steps of each level.
        batch: windows in a step, over all processes; of the top level in a joint training.
        learning_rate: peak of the schedule (linear warm-up over `warmup` of the steps, then a half cosine to 0).
        warmup: share of the steps.
        weight_decay: AdamW's.
        clip_norm: largest norm of the gradient.
        evaluate_every: steps between validations.
        checkpoint_seconds: seconds between checkpoints.
        joint: all levels at once, upper ones shaping those below, instead of one after another.
    """

    steps: int = 2000
    batch: int = 512
    learning_rate: float = 1e-3
    warmup: float = 0.1
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    evaluate_every: int = 500
    checkpoint_seconds: float = 60.0
    joint: bool = False

    def __post_init__(self) -> None:
        at_least("training.", 1, steps=self.steps, batch=self.batch, evaluate_every=self.evaluate_every)
        at_least("training.", 0, learning_rate=self.learning_rate, warmup=self.warmup, clip_norm=self.clip_norm)

    def changed(self, changes: Mapping[str, Any]) -> TrainingConfig:
        """The same with some keys changed, as one level's own settings do."""
        hints = get_type_hints(TrainingConfig)
        for key, value in changes.items():
            if key not in hints or key == "joint":
                raise ValueError(f"unknown key training.{key}; allowed: {', '.join(sorted(set(hints) - {'joint'}))}")
            if not matches(value, hints[key]):
                raise ValueError(f"training.{key} is {value!r}; allowed: {spell(hints[key])}")
        return replace(self, **changes)

    def check(self, processes: Processes) -> None:
        """Refuse a batch that the processes cannot share evenly."""
        if self.batch % processes.world_size:
            raise ValueError(
                f"training.batch is {self.batch}; allowed: a multiple of the {processes.world_size} processes"
            )

    @property
    def shaping(self) -> dict[str, Any]:
        """What changes the weights; the rest is only watched or saved."""
        return {k: v for k, v in asdict(self).items() if k not in ("evaluate_every", "checkpoint_seconds", "joint")}


@dataclass(frozen=True)
class Progress:
    """What the loop reports.

    Args:
        step: optimiser steps done.
        steps: of how many.
        metrics: name -> number; empty between the reports.
        home: folder of what is trained.
        job: what is done to the level.
    """

    step: int
    steps: int
    metrics: dict[str, float]
    home: Path
    job: str = "training"


def train_level(
    level: Level,
    training: ClipSampler,
    validation: ClipSampler,
    episodes: Episodes,
    config: TrainingConfig,
    *,
    seed: int,
    processes: Processes,
    home: Path,
    report: Callable[[Progress], None],
    diagnostics: Diagnostics = SHIPPED,
) -> dict[str, float]:
    """Train a fitted level; returns its last validation metrics."""
    held_out = held_out_clip(validation, processes)
    return optimize(
        level,
        training,
        config,
        seed=seed,
        processes=processes,
        home=home,
        evaluate=lambda: evaluate_level(level, held_out, episodes, diagnostics),
        report=report,
    )


def optimize(
    module: Trainable,
    training: ClipSampler,
    config: TrainingConfig,
    *,
    seed: int,
    processes: Processes,
    home: Path,
    evaluate: Callable[[], dict[str, float]],
    report: Callable[[Progress], None],
) -> dict[str, float]:
    """Lower a module's losses on clips; returns its last validation metrics.

    Step i draws its batch and its random projections from (seed, i) alone, the same in every process, each of which
    trains on its slice of the batch. So any number of processes follows the same loss curve, and the checkpoint needs
    no state of samplers or generators to resume exactly.
    """
    device = processes.device
    module.to(device)
    wrapped: nn.Module = DistributedDataParallel(module) if processes.world_size > 1 else module
    optimizer = torch.optim.AdamW(
        [p for p in module.parameters() if p.requires_grad], lr=config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: learning_rate_factor(i, config))
    checkpoint = home / CHECKPOINT
    start, metrics = 0, {}
    if saved := load_checkpoint(checkpoint, device):
        module.load_state_dict(saved["module"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        start, metrics = saved["step"], saved["metrics"]
    last_save = time.monotonic()
    share = config.batch // processes.world_size
    mine = slice(processes.rank * share, (processes.rank + 1) * share)

    for step in range(start, config.steps + 1):
        if step % config.evaluate_every == 0 or step == config.steps:
            metrics = evaluate()
            report(Progress(step, config.steps, {f"validation/{name}": value for name, value in metrics.items()}, home))
        if step == config.steps:
            break
        # every so often: be ready to be killed
        if processes.is_main and time.monotonic() - last_save > config.checkpoint_seconds:
            state = {
                "module": module.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
            }
            save_checkpoint(checkpoint, state | {"step": step, "metrics": metrics})
            last_save = time.monotonic()

        clip = training.sample(config.batch, np.random.default_rng([seed, step])).map(lambda x: x[mine].to(device))
        generator = torch.Generator().manual_seed(_step_seed(seed, step))
        losses = wrapped(clip, generator)
        total = module.total(losses)
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(module.parameters(), config.clip_norm)
        optimizer.step()
        schedule.step()
        module.after_step()

        if step % 50 == 0:
            # each process has the mean over its own share of the batch
            whole = average_over_processes(torch.stack([total, *losses.values()]).detach())
            values = dict(zip(["loss/total", *(f"loss/{name}" for name in losses)], whole.tolist(), strict=True))
            values["learning_rate"] = float(schedule.get_last_lr()[0])
            report(Progress(step, config.steps, values, home))
        else:
            report(Progress(step, config.steps, {}, home))
    return metrics


def held_out_clip(validation: ClipSampler, processes: Processes) -> Clip:
    """The windows that a level is validated on, always the same."""
    return validation.sample(VALIDATION_WINDOWS, np.random.default_rng(0)).map(lambda x: x.to(processes.device))


@torch.no_grad()
def evaluate_level(level: Level, clip: Clip, episodes: Episodes, diagnostics: Diagnostics) -> dict[str, float]:
    """Validation losses on a held-out clip, and the diagnostics."""
    level.eval()
    metrics = evaluate_features(level, level.features(clip), clip.pairs, episodes.encoded(level), diagnostics)
    level.train()
    return metrics


def evaluate_features(
    level: Level, features: Features, pairs: Pairs | None, episodes: EncodedEpisodes, diagnostics: Diagnostics
) -> dict[str, float]:
    """The same of what the level, in eval mode, made of the clip."""
    losses = level.losses_of(features, pairs, torch.Generator().manual_seed(0))
    measured = diagnostics.measure(level, features, episodes)
    return {f"{LOSS}{name}": value.item() for name, value in losses.items()} | measured


def learning_rate_factor(step: int, config: TrainingConfig) -> float:
    """Linear warm-up, then half a cosine to zero."""
    warmup = max(1, round(config.warmup * config.steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, config.steps - warmup)))


def _step_seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step, 1]).generate_state(1)[0])
