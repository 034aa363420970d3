"""Where a level's actions lead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hiwm.planning.history import mapped

BLOCK = 2048  # rows


@dataclass(frozen=True)
class Rollout:
    """Candidate action sequences of a level and the latents they are predicted to lead to.

    Args:
        start: latents of B episodes, (B, D).
        actions: S candidates an episode, H actions each, (B, S, H, A).
        latents: after each action, (B, S, H, D).
        variance: among the members of an ensemble, (B, S, H, D); None for other predictors.
    """

    start: Tensor
    actions: Tensor
    latents: Tensor
    variance: Tensor | None = None

    @staticmethod
    def staying(latent: Tensor) -> Rollout:
        """One step that does not move: a cost of it is the cost of the present latent (B, D)."""
        here = latent[:, None, None]
        return Rollout(latent, here[..., :0], here)


def follow(
    predictor: Any, latent: Tensor, state: Any, choose: Callable[[int, Tensor], Tensor], steps: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Take H steps of a level.

    Args:
        predictor: a `Predictor`, or its counted wrapper.
        latent: where to begin, (B, D).
        state: the predictor's recurrent state there.
        choose: (step 0 to H - 1, latent (B, D)) -> the action of that step, (B, A).
        steps: H.

    Returns:
        Actions (B, H, A), latents after each (B, H, D), and the members' variance (B, H, D) or None.
    """
    actions, latents, variances = [], [], []
    for h in range(steps):
        action = choose(h, latent)
        latent, variance, state = predictor.step_spread(state, action)
        actions.append(action)
        latents.append(latent)
        variances += [] if variance is None else [variance]
    return torch.stack(actions, 1), torch.stack(latents, 1), torch.stack(variances, 1) if variances else None


def in_blocks(
    run: Callable[[Tensor, Any, Tensor], tuple[Tensor, Tensor, Tensor | None]],
    latent: Tensor,
    state: Any,
    chosen: Tensor,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """`run` of latents (B, D), recurrent states and actions (B, H, A); on a CPU block after block.

    The activations of a block stay in the processor's cache: 15,000 rows took 0.7 of the time on an Intel Xeon.
    """
    if chosen.device.type != "cpu" or len(chosen) <= BLOCK:
        return run(latent, state, chosen)
    blocks = [slice(first, first + BLOCK) for first in range(0, len(chosen), BLOCK)]
    parts = [run(latent[rows], mapped(state, lambda x, rows=rows: x[rows]), chosen[rows]) for rows in blocks]
    actions, latents, variances = zip(*parts, strict=True)
    known = [variance for variance in variances if variance is not None]
    return torch.cat(actions), torch.cat(latents), torch.cat(known) if known else None
