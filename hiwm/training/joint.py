"""Joint training: all levels at once, instead of one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from hiwm.data.clips import ClipSampler
from hiwm.levels.clip import Clip
from hiwm.levels.joint import JointLevels, of_level
from hiwm.levels.level import Level
from hiwm.training.checkpoint import save_trained
from hiwm.training.diagnostics.episodes import Episodes
from hiwm.training.diagnostics.runner import Diagnostics
from hiwm.training.distributed import Processes, barrier
from hiwm.training.loop import VALIDATION_WINDOWS, Progress, TrainingConfig, evaluate_output, optimize

STATISTICS_WINDOWS = 256


def train_jointly(
    levels: Sequence[Level],
    training: ClipSampler,
    validation: ClipSampler,
    episodes: Episodes,
    config: TrainingConfig,
    *,
    seed: int,
    processes: Processes,
    homes: Sequence[Path],
    report: Callable[[int, Progress], None],
    diagnostics: Diagnostics,
) -> None:
    """Train all levels together and save each in its home; level 0 is fitted already.

    Args:
        levels: bottom first.
        training: draws clips of level 0 that are as long as `JointLevels.horizon`.
        validation: the same from held-out episodes.
        episodes: time steps of held-out episodes, with the inputs of level 0.
        config: how they are trained.
        seed: seed of the draws.
        processes: this process and the others.
        homes: folder of each level; the top's holds the checkpoint.
        report: called with a level's number: for level 0 at every step, for all at validations and when losses are
            reported.
        diagnostics: measured for every level at validations.
    """
    joint = JointLevels(levels).to(processes.device)
    sample = training.sample(STATISTICS_WINDOWS, np.random.default_rng(0)).map(lambda x: x.to(processes.device))
    with torch.no_grad():
        for level, (_, encoded) in list(zip(levels, joint.clips(sample, torch.Generator()), strict=True))[1:]:
            level.fit_step(encoded.latent)

    def report_levels(progress: Progress) -> None:
        for k, home in enumerate(homes):
            mine = {}
            for name, value in progress.metrics.items():
                kind, _, rest = name.partition("/")  # validation/level1/std, loss/level0/prediction, loss/total
                if rest.startswith(f"level{k}/"):
                    mine[f"{kind}/{rest.removeprefix(f'level{k}/')}"] = value
                elif not rest.startswith("level"):
                    mine[name] = value  # of all levels together
            if k == 0 or mine:
                report(k, replace(progress, metrics=mine, home=home))

    # as many frames as a validation of level 0 alone has
    windows = max(1, VALIDATION_WINDOWS * levels[0].horizon // joint.horizon)
    held_out = validation.sample(windows, np.random.default_rng(0)).map(lambda x: x.to(processes.device))
    metrics = optimize(
        joint, training, config, seed=seed, processes=processes, home=homes[-1],
        evaluate=lambda joint: evaluate_levels(joint, held_out, episodes, diagnostics), report=report_levels,
    )  # fmt: skip
    if processes.is_main:
        for k, (level, home) in enumerate(zip(levels, homes, strict=True)):
            save_trained(level, of_level(metrics, k), home)
    barrier()


@torch.no_grad()
def evaluate_levels(joint: JointLevels, clip: Clip, episodes: Episodes, diagnostics: Diagnostics) -> dict[str, float]:
    """`evaluate_level` of every level: level<k>/<name>."""
    joint.eval()
    generator = torch.Generator().manual_seed(0)
    metrics = {}
    for k, (given, encoded) in enumerate(joint.clips(clip, generator)):
        level, moments = joint.levels[k], episodes.encoded(joint.levels[k])
        output = level.predict_clip(encoded.windows(level.horizon))
        found = evaluate_output(level, output, given.pairs, moments, diagnostics)
        metrics |= {f"level{k}/{name}": value for name, value in found.items()}
        episodes = Episodes({"latent": moments.latent}, moments.state, k + 1)
    joint.train()
    return metrics
