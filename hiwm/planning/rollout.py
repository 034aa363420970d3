"""Where a level's actions lead, each chosen where the last one has led."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hiwm.levels.parts import Predictor


@dataclass(frozen=True)
class Rollout:
    """Actions of a level and where they lead, step by step.

    Args:
        actions: (B, H, A).
        latents: after each, (B, H, D).
        variance: among the members of an ensemble, (B, H, D); None for other predictors.
    """

    actions: Tensor
    latents: Tensor
    variance: Tensor | None


def follow(
    predictor: Predictor, latent: Tensor, carried: object, choose: Callable[[int, Tensor], Tensor], steps: int
) -> Rollout:
    """Take H steps of a level.

    Args:
        predictor: of the level.
        latent: where to begin, (B, D).
        carried: what the predictor carries along there.
        choose: the action (B, A) of a step, 0 to H - 1, by its number and the latent it starts from, (B, D).
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
