"""Open-loop prediction: several steps from one observation, each from the latent that the last one predicted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

BLOCK = 2048  # rows


class StepPredictor(Protocol):
    """What predicts one step: a `Predictor`, or a wrapper that counts its calls."""

    def step_spread(self, state: Any, action: Tensor) -> tuple[Tensor, Tensor | None, Any]:
        """Recurrent state, action (B, A) -> next latent (B, D), variance among the members (B, D) or None, next state."""
        ...


class Unrolled(NamedTuple):
    """H predicted steps of B rows.

    Args:
        actions: taken in each step, (B, H, A).
        latents: after each step, (B, H, D).
        variance: among the members of an ensemble, (B, H, D); None for other predictors.
    """

    actions: Tensor
    latents: Tensor
    variance: Tensor | None


def unroll(
    predictor: StepPredictor, latent: Tensor, state: Any, choose: Callable[[int, Tensor], Tensor], steps: int
) -> Unrolled:
    """Predict H steps of a level.

    Args:
        predictor: of the level.
        latent: where to begin, (B, D).
        state: the predictor's recurrent state there.
        choose: (step 0 to H - 1, latent (B, D)) -> the action of that step, (B, A).
        steps: H.
    """
    actions, latents, variances = [], [], []
    for h in range(steps):
        action = choose(h, latent)
        latent, variance, state = predictor.step_spread(state, action)
        actions.append(action)
        latents.append(latent)
        variances += [] if variance is None else [variance]
    variance = torch.stack(variances, 1) if variances else None
    return Unrolled(torch.stack(actions, 1), torch.stack(latents, 1), variance)


def in_blocks(
    run: Callable[[Tensor, Any, Tensor], Unrolled],
    latent: Tensor,
    state: Any,
    chosen: Tensor,
) -> Unrolled:
    """`run` of latents (B, D), recurrent states and actions (B, H, A); on a CPU block after block.

    The activations of a block stay in the processor's cache: 15,000 rows took 0.7 of the time on an Intel Xeon.
    """
    if chosen.device.type != "cpu" or len(chosen) <= BLOCK:
        return run(latent, state, chosen)
    blocks = [slice(first, first + BLOCK) for first in range(0, len(chosen), BLOCK)]
    parts = [run(latent[rows], mapped(state, lambda x, rows=rows: x[rows]), chosen[rows]) for rows in blocks]
    actions, latents, variances = zip(*parts, strict=True)
    known = [variance for variance in variances if variance is not None]
    return Unrolled(torch.cat(actions), torch.cat(latents), torch.cat(known) if known else None)


def mapped(state: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A predictor's recurrent state with every tensor in it changed."""
    if isinstance(state, Tensor):
        return change(state)
    if isinstance(state, (tuple, list)):
        return type(state)(mapped(part, change) for part in state)
    return state
