"""The first training of a level whose regularizers need to see what it predicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from hiwm.data.clips import ClipSampler
from hiwm.levels.level import Level
from hiwm.tensors import load_state, save_tensors
from hiwm.training.checkpoint import CHECKPOINT, WEIGHTS
from hiwm.training.distributed import Processes, barrier
from hiwm.training.loop import Progress, TrainingConfig, held_out_clip, held_out_losses, optimize

FOLDER = "dynamics"


def learn_dynamics(
    level: Level,
    training: ClipSampler,
    validation: ClipSampler,
    config: TrainingConfig,
    *,
    seed: int,
    processes: Processes,
    home: Path,
    report: Callable[[Progress], None],
) -> None:
    """Train a fitted level before its regularizers imagine, then show them what it predicts.

    Its weights are kept in the folder `home` of the level, so that a training that is interrupted later goes on with the same predictions.
    """
    folder = home / FOLDER
    folder.mkdir(exist_ok=True)
    there = (folder / WEIGHTS).exists()
    barrier()  # no process writes before all have looked
    if not there:
        held_out = held_out_clip(validation, processes)

        @torch.no_grad()
        def evaluate(level: Level) -> dict[str, float]:
            level.eval()
            losses = held_out_losses(level, level.output(held_out), held_out.pairs)
            level.train()
            return losses

        optimize(
            level, training, config, seed=seed, processes=processes, home=folder, evaluate=evaluate,
            report=lambda progress: report(replace(progress, job="dynamics")),
        )  # fmt: skip
        if processes.is_main:
            save_tensors(folder / WEIGHTS, level.state_dict())
    if processes.is_main:
        (folder / CHECKPOINT).unlink(missing_ok=True)
    barrier()
    load_state(level, folder / WEIGHTS)
    clip = training.sample(level.fit_windows, np.random.default_rng(2))
    level.imagine(clip.map(lambda x: x.to(processes.device)))
