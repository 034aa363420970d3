"""Candidate plans of a level and where they are predicted to lead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hiwm.open_loop import mapped


@dataclass(frozen=True)
class Rollout:
    """Candidate action sequences of a level and the latents they are predicted to lead to.

    Args:
        start: latents of B episodes, (B, D).
        actions: S candidates per episode, H actions each, (B, S, H, A).
        latents: after each action, (B, S, H, D).
        variance: among the members of an ensemble, (B, S, H, D); None for other predictors.
        state: the predictor's recurrent state after the last action, (B * S, ...), to extend the candidates; None if it is unknown.
    """

    start: Tensor
    actions: Tensor
    latents: Tensor
    variance: Tensor | None = None
    state: Any = None

    def take(self, index: Tensor) -> Rollout:
        """Some of the candidates, indices (B, N)."""
        size, samples = self.actions.shape[:2]
        first = torch.arange(size, device=index.device).unsqueeze(1)
        rows = (first * samples + index).flatten()
        variance = None if self.variance is None else self.variance[first, index]
        state = mapped(self.state, lambda x: x[rows])
        return Rollout(self.start, self.actions[first, index], self.latents[first, index], variance, state)

    @staticmethod
    def staying(latent: Tensor) -> Rollout:
        """A candidate of one step that stays at the latents (B, D); its cost is the cost of staying."""
        latents = latent[:, None, None]
        return Rollout(latent, latents[..., :0], latents)
