"""The training loop: evaluate, save, step, report. It trains one level, all levels jointly, or a trunk before its level."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hiwm.data.clips import ClipSampler
from hiwm.levels.clip import Clip, Pairs
from hiwm.levels.distributed import average_over_processes
from hiwm.levels.level import Level
from hiwm.levels.output import LevelOutput
from hiwm.levels.precision import tensor_cores
from hiwm.levels.trainable import Trainable
from hiwm.settings import Settings
from hiwm.signals import Request, Stopped, deferring, raising
from hiwm.training.checkpoint import CHECKPOINT, load_checkpoint, save_checkpoint
from hiwm.training.diagnostics.episodes import EncodedEpisodes, Episodes
from hiwm.training.diagnostics.runner import LOSS, SHIPPED, Diagnostics
from hiwm.training.distributed import Processes, Vote, barrier
from hiwm.training.divergence import DivergenceCheck
from hiwm.training.loader import batches
from hiwm.training.wrapping import finish, load_module, load_optimizer, measured, saved, trained, whole, wrap

VALIDATION_WINDOWS = 1024
MEASURING = "diagnostics"  # the job of measuring a level that was trained before
REPORT_EVERY = 50  # steps between reports of the training losses


class TrainingConfig(Settings):
    """How a level is trained.

    Args:
        steps: optimiser steps of each level.
        batch: windows in a step, over all processes; in a joint training, windows of the top level.
        accumulate: parts into which each process splits its share of the batch, one after another, to save memory. Losses
            that use statistics of the batch (sigreg, vicreg, batch normalisation, ...) see one part at a time.
        compile: compile forward and backward pass with torch.compile: up to a minute at the start, faster steps, losses that differ by
            rounding; needs a C++ compiler on a CPU.
        shard: split parameters, gradients and optimiser state between the processes (FSDP2), for encoders that do not fit into
            one GPU's memory; the layers of vision transformers are then gathered one after another. No effect on one process.
        learning_rate: peak of the schedule: a linear warm-up, then a half cosine to 0.
        warmup: share of the steps that the warm-up takes.
        weight_decay: weight decay of AdamW.
        clip_norm: largest norm of the gradient.
        evaluate_every: steps between validations.
        checkpoint_seconds: seconds between checkpoints.
        joint: train all levels at once, so that upper ones shape those below, instead of one after another.
    """

    section: ClassVar[str] = "training"
    steps: int = Field(ge=1)
    batch: int = Field(ge=1)
    accumulate: int = Field(ge=1)
    compile: bool
    shard: bool
    learning_rate: float = Field(ge=0)
    warmup: float = Field(ge=0, le=1)
    weight_decay: float = Field(ge=0)
    clip_norm: float = Field(ge=0)
    evaluate_every: int = Field(ge=1)
    checkpoint_seconds: float = Field(ge=0)
    joint: bool

    def of_level(self, changes: Mapping[str, Any]) -> TrainingConfig:
        """A copy with the settings of one level on top; a level cannot set `joint`."""
        if "joint" in changes:
            own = sorted(set(TrainingConfig.model_fields) - {"joint"})
            raise ValueError(f"unknown key training.joint; expected one of {', '.join(own)}")
        return self.changed(changes)

    def check(self, processes: Processes) -> None:
        """Refuse a batch that the processes and their parts cannot share evenly, and compiled shards."""
        if self.shard and self.compile and processes.world_size > 1:
            raise ValueError("training.shard and training.compile are true; expected at most one. Set one to false")
        if self.batch % (processes.world_size * self.accumulate):
            parts = "" if self.accumulate == 1 else f" times {self.accumulate}, training.accumulate"
            raise ValueError(
                f"training.batch is {self.batch}; expected a multiple of the {processes.world_size} processes{parts}"
            )

    @property
    def shaping(self) -> dict[str, Any]:
        """The settings that change the weights; the others only say when to validate and save."""
        without_effect = {"evaluate_every", "checkpoint_seconds", "compile", "shard", "joint"}
        if self.accumulate == 1:  # levels trained before there was the key keep their fingerprints
            without_effect.add("accumulate")
        return {k: v for k, v in self.as_dict().items() if k not in without_effect}


Module = TypeVar("Module", bound=Trainable)


@dataclass(frozen=True)
class Progress:
    """A report of the loop.

    Args:
        step: optimiser steps done.
        steps: total number of optimiser steps.
        metrics: name -> number; empty at most steps.
        home: folder of what is trained.
        job: "training", "pretraining" or "dynamics".
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
    """Train a level whose input statistics are set; returns its last validation metrics."""
    held_out = held_out_clip(validation, processes)
    return optimize(
        level,
        training,
        config,
        seed=seed,
        processes=processes,
        home=home,
        evaluate=lambda level: evaluate_level(level, held_out, episodes, diagnostics),
        report=report,
    )


def optimize(
    module: Module,
    training: ClipSampler,
    config: TrainingConfig,
    *,
    seed: int,
    processes: Processes,
    home: Path,
    evaluate: Callable[[Module], dict[str, float]],
    report: Callable[[Progress], None],
) -> dict[str, float]:
    """Minimise a module's losses on clips; returns its last validation metrics, found by `evaluate`.

    Step i draws its batch and its random projections from (seed, i) alone, the same in every process, and each process
    trains on its slice of the batch. So any number of processes follows the same loss curve, and the checkpoint needs
    no state of samplers or generators to resume exactly.
    """
    wrapped = wrap(module, processes, compile=config.compile, shard=config.shard)
    device = processes.device
    state = _State(trained(wrapped), config, device)
    start, metrics = state.load(home / CHECKPOINT)
    watch = DivergenceCheck(training, config.batch, seed, device)
    vote, measure = Vote(processes, config.checkpoint_seconds), partial(measured, wrapped, evaluate)

    def draw(step: int) -> Clip:
        return training.sample(config.batch, np.random.default_rng([seed, step]), processes.share(config.batch))

    def save(step: int) -> None:
        watch.weights(max(0, step - 1), state.module)
        state.save(home / CHECKPOINT, step, metrics, processes)

    clips = batches(draw, range(start, config.steps), device)
    with deferring() as stop:
        for step in range(start, config.steps + 1):
            if step % config.evaluate_every == 0 or step == config.steps:
                found = _unless_stopped(measure, stop) if vote.alone else measure()
                if found is not None:
                    metrics = found
                    watch.losses(max(0, step - 1), {name: x for name, x in metrics.items() if LOSS in name})
                    report(Progress(step, config.steps, {f"validation/{name}": x for name, x in metrics.items()}, home))
            signal, due = vote(stop.number)
            if step == config.steps and not (signal and vote.alone):
                break
            if signal or due:
                save(step)
                vote.saved()
            if signal:
                barrier()  # a process that ends takes the others with it
                raise Stopped(signal)
            losses, norm = state.step(wrapped, next(clips), torch.Generator(device).manual_seed(_step_seed(seed, step)))
            watch.gradient(step, norm)
            values = state.values(losses, watch, step) if step % REPORT_EVERY == 0 else {}
            report(Progress(step, config.steps, values, home))
        vote.result()  # the last answer must not be left pending
    finish(wrapped, module, processes)
    return metrics


def _unless_stopped(evaluate: Callable[[], dict[str, float]], stop: Request) -> dict[str, float] | None:
    """What `evaluate` returns; None if a signal ends it, because a validation may take longer than the signal leaves time for.

    For one process alone: of several, one that stops would leave the others waiting for its share of the losses.
    """
    try:
        with raising():
            return None if stop.number else evaluate()
    except Stopped as stopped:
        stop.number = stopped.number
        return None


class _State:
    """What a checkpoint holds besides the step and the last validation: module, optimiser, schedule."""

    def __init__(self, module: Trainable, config: TrainingConfig, device: torch.device) -> None:
        self.module, self.config, self.device = module, config, device
        self.optimizer = torch.optim.AdamW(
            [p for p in module.parameters() if p.requires_grad],
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=device.type == "cuda" or None,  # one kernel for all parameters
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda i: learning_rate_factor(i, config))

    def step(self, wrapped: nn.Module, clip: Clip, generator: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
        """One optimiser step on this process's clip.

        Returns:
            The losses and their "total", means over `accumulate` parts of the clip; and the norm of the gradient.
        """
        self.optimizer.zero_grad(set_to_none=True)
        parts, found, names = self.config.accumulate, [], []
        for i in range(parts):
            rows = clip.map(lambda x, i=i: x.chunk(parts)[i])
            alone = isinstance(wrapped, DistributedDataParallel) and i + 1 < parts
            with wrapped.no_sync() if alone else nullcontext(), tensor_cores(self.device):  # type: ignore[operator]
                losses = wrapped(rows, generator)
                total = self.module.total(losses)
                (total / parts).backward()
            names = ["total", *losses]
            found.append(torch.stack([total, *losses.values()]).detach())
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.config.clip_norm)
        self.optimizer.step()
        self.schedule.step()
        self.module.after_step()
        return dict(zip(names, torch.stack(found).mean(0), strict=True)), whole(norm)

    def values(self, losses: Mapping[str, Tensor], watch: DivergenceCheck, step: int) -> dict[str, float]:
        """The losses of a step over all processes, checked, and its learning rate."""
        values = _over_processes(losses)
        watch.losses(step, values)
        return values | {"learning_rate": float(self.schedule.get_last_lr()[0])}

    def save(self, path: Path, step: int, metrics: dict[str, float], processes: Processes) -> None:
        """The main process writes the checkpoint; the others hand over their shards."""
        parts = {
            name: saved(getattr(self, name).state_dict(), processes.is_main)
            for name in ("module", "optimizer", "schedule")
        }
        if processes.is_main:
            save_checkpoint(path, parts | {"step": step, "metrics": metrics})

    def load(self, path: Path) -> tuple[int, dict[str, float]]:
        """The step and the validation metrics of the checkpoint; 0 and {} if there is no checkpoint."""
        state = load_checkpoint(path)
        if state is None:
            return 0, {}
        try:
            load_module(self.module, state["module"])
            load_optimizer(self.optimizer, state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            return state["step"], state["metrics"]
        except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            fault = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{path} does not fit what is trained ({fault}); remove it, and training starts from step 0"
            ) from error


def _over_processes(losses: Mapping[str, Tensor]) -> dict[str, float]:
    """The losses of the whole batch; each process has the mean over its own share."""
    whole = average_over_processes(torch.stack([*losses.values()]))
    return dict(zip([f"loss/{name}" for name in losses], whole.tolist(), strict=True))


def held_out_clip(validation: ClipSampler, processes: Processes) -> Clip:
    """The windows that a level is validated on, always the same."""
    return validation.sample(VALIDATION_WINDOWS, np.random.default_rng(0)).map(lambda x: x.to(processes.device))


@torch.no_grad()
def evaluate_level(level: Level, clip: Clip, episodes: Episodes, diagnostics: Diagnostics) -> dict[str, float]:
    """Validation losses on a held-out clip, and the diagnostics."""
    level.eval()
    metrics = evaluate_output(level, level.output(clip), clip.pairs, episodes.encoded(level), diagnostics)
    level.train()
    return metrics


def evaluate_output(
    level: Level, output: LevelOutput, pairs: Pairs | None, episodes: EncodedEpisodes, diagnostics: Diagnostics
) -> dict[str, float]:
    """Validation losses and diagnostics from the level's output on the clip; the level is in eval mode."""
    return held_out_losses(level, output, pairs) | diagnostics.measure(level, output, episodes)


def held_out_losses(level: Level, output: LevelOutput, pairs: Pairs | None) -> dict[str, float]:
    """Validation losses from the level's output on the clip; the level is in eval mode."""
    losses = level.losses_of(output, pairs, torch.Generator().manual_seed(0))
    return {f"{LOSS}{name}": value.item() for name, value in losses.items()}


def learning_rate_factor(step: int, config: TrainingConfig) -> float:
    """Linear warm-up, then half a cosine to zero."""
    warmup = max(1, round(config.warmup * config.steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, config.steps - warmup)))


def _step_seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step, 1]).generate_state(1)[0])
