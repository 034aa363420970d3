"""Rollouts of a level: each action is chosen at the latent that the last one led to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hiwm.levels.parts import Predictor

BLOCK = 2048  # rows


@dataclass(frozen=True)
class Rollout:
    """Actions of a level and the latents they lead to, step by step.

    Args:
        actions: (B, H, A).
        latents: after each action, (B, H, D).
        variance: among the members of an ensemble, (B, H, D); None for other predictors.
    """

    actions: Tensor
    latents: Tensor
    variance: Tensor | None

    @property
    def disagreement(self) -> Tensor | None:
        """Variance summed over the dimensions of the latent, (B, H)."""
        return None if self.variance is None else self.variance.sum(-1)


def follow(
    predictor: Predictor, latent: Tensor, carried: Any, choose: Callable[[int, Tensor], Tensor], steps: int
) -> Rollout:
    """Predict H steps of a level.

    Args:
        predictor: of the level.
        latent: the first latent, (B, D).
        carried: the memory of the predictor at that latent.
        choose: returns the action (B, A) of a step from its number, 0 to H - 1, and the latent it starts from, (B, D).
        steps: H.
    """
    actions, latents, variances = [], [], []
    for h in range(steps):
        action = choose(h, latent)
        latent, variance, carried = predictor.step_spread(carried, action)
        actions.append(action)
        latents.append(latent)
        variances += [] if variance is None else [variance]
    return Rollout(torch.stack(actions, 1), torch.stack(latents, 1), torch.stack(variances, 1) if variances else None)


def in_blocks(run: Callable[[Tensor, Any, Tensor], Rollout], latent: Tensor, carried: Any, chosen: Tensor) -> Rollout:
    """Apply `run` to rows, on a CPU block after block.

    A block's activations stay in the processor's cache: 15,000 rows took 0.7 of the time on an Intel Xeon.

    Args:
        run: takes rows of the three arguments below.
        latent: first latents, (B, D).
        carried: the memory of the predictor at those latents.
        chosen: what the rollout chooses, (B, H, A).
    """
    if chosen.device.type != "cpu" or len(chosen) <= BLOCK:
        return run(latent, carried, chosen)
    blocks = [slice(first, first + BLOCK) for first in range(0, len(chosen), BLOCK)]
    parts = [run(latent[rows], mapped(carried, lambda x, rows=rows: x[rows]), chosen[rows]) for rows in blocks]
    variances = [part.variance for part in parts if part.variance is not None]
    return Rollout(
        torch.cat([part.actions for part in parts]),
        torch.cat([part.latents for part in parts]),
        torch.cat(variances) if variances else None,
    )


def repeated(carried: Any, times: int) -> Any:
    """Repeat every row of every tensor in a predictor's memory `times` times: (B, ...) -> (B * times, ...)."""
    return mapped(carried, lambda rows: rows.repeat_interleave(times, 0))


def mapped(carried: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Apply `change` to every tensor in a predictor's memory."""
    if isinstance(carried, Tensor):
        return change(carried)
    if isinstance(carried, (tuple, list)):
        return type(carried)(mapped(part, change) for part in carried)
    return carried
